// Carrying out request records through the shim, and counting what each disk did.
import {
  REQUEST_KIND,
  REQUEST_KIND_BLK_IN,
  REQUEST_KIND_BLK_OUT,
  REQUEST_KIND_ENTROPY,
  REQUEST_TAG,
  RESULT_IOERR,
  RESULT_OK,
} from '../../assembly/abi.ts';
import type { DiskDevice, VirtioDevice } from '../boot/image.ts';
import type { DiskReport } from '../report.ts';
import type { BlockResult, Vm } from '../shim.ts';
import { virtioPlan } from '../virtio-plan.ts';

import type { Device } from './device.ts';

export interface Executed {
  tag: number;
  result: number; // RESULT_*
  bytes: number; // written into guest memory
}

interface DiskState {
  disk: DiskDevice;
  report: DiskReport;
}

/** Executes records; a cage may only ask for what its kind of device does. */
export class Executor {
  private readonly vm: Vm;
  private readonly disks = new Map<string, DiskState>();
  private readonly rngs = new Set<string>();

  constructor(vm: Vm, virtio: readonly VirtioDevice[]) {
    this.vm = vm;
    for (const device of virtio) {
      if (device.kind === 'virtio-blk') this.addDisk(device);
      else this.rngs.add(virtioPlan(device).name);
    }
  }

  get diskReports(): DiskReport[] {
    return [...this.disks.values()].map((state) => state.report);
  }

  execute(device: Device, record: Uint8Array): Executed {
    const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
    const kind = view.getUint32(REQUEST_KIND, true);
    const tag = view.getUint32(REQUEST_TAG, true);
    const state = this.disks.get(device.name);
    if (state) return { tag, ...this.executeDisk(state, kind, record) };
    if (kind !== REQUEST_KIND_ENTROPY || !this.rngs.has(device.name)) {
      return { tag, result: RESULT_IOERR, bytes: 0 };
    }
    const { result, bytes } = this.vm.executeEntropy(record);
    return { tag, result, bytes };
  }

  private addDisk(disk: DiskDevice): void {
    const { id, path, readOnly } = disk;
    const counts = { requests: 0, bytesRead: 0, bytesWritten: 0, errors: 0, lastError: null };
    // This engine is for looking at what happens, not for how long it takes.
    const times = { engine: 'sync' as const, latencyMicroseconds: { read: {}, write: {} } };
    this.disks.set(virtioPlan(disk).name, {
      disk,
      report: { id, path, readOnly, ...counts, ...times },
    });
  }

  private executeDisk({ disk, report }: DiskState, kind: number, record: Uint8Array) {
    const { result, bytes, errno }: BlockResult = this.vm.executeBlock(disk, record);
    report.requests++;
    if (result !== RESULT_OK) {
      report.errors++;
      report.lastError = errno || 'refused';
    }
    if (kind === REQUEST_KIND_BLK_IN) report.bytesRead += bytes;
    if (kind === REQUEST_KIND_BLK_OUT) report.bytesWritten += bytes;
    return { result, bytes: kind === REQUEST_KIND_BLK_IN ? bytes : 0 };
  }
}
