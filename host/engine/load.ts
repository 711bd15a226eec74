// Placing a machine image into a fresh VM: segments first, registers last.
import { closeSync, openSync } from 'node:fs';
import type { MachineImage } from '../boot/image.ts';
import { FaradayError } from '../errors.ts';
import type { NativeError, Vm } from '../shim.ts';

/** Maps every segment of `image` into guest RAM and sets vCPU 0's registers. */
export function loadImage(vm: Vm, image: MachineImage): void {
  for (const segment of image.segments) {
    if ('bytes' in segment) vm.loadBytes(segment.bytes, segment.address);
    else loadFile(vm, segment.path, segment.fileOffset, segment.lengthBytes, segment.address);
  }
  vm.setRegisters(image.registers);
}

function loadFile(vm: Vm, path: string, offset: number, length: number, address: number): void {
  const fd = openSync(path, 'r');
  try {
    vm.loadFile(fd, offset, length, address);
  } catch (error) {
    // The file was checked before: whoever gets here changed it in between.
    const { code } = error as NativeError;
    throw new FaradayError('bad-kernel', `'${path}' changed while it was being loaded (${code})`);
  } finally {
    closeSync(fd);
  }
}
