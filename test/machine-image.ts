// A small machine image with one of everything, for tests of what is made of images.
import type { DiskDevice, MachineImage, NetDevice } from '../host/boot/image.ts';
import { CODE_64, startRegisters } from '../host/boot/registers.ts';

export function diskDevice(fd: number, change: Partial<DiskDevice> = {}): DiskDevice {
  return {
    kind: 'virtio-blk',
    slot: { address: 0xd0000000, pin: 5 },
    id: 'rootfs',
    path: '/data/root.img',
    fd,
    capacityBytes: 2 ** 20,
    readOnly: false,
    ioUring: false,
    writeback: true,
    queueCount: 1,
    queueSize: 256,
    ...change,
  };
}

export const NET_MAC = '02:00:00:00:00:01';

export function netDevice(fds: number[], change: Partial<NetDevice> = {}): NetDevice {
  return {
    kind: 'virtio-net',
    slot: { address: 0xd0000000, pin: 5 },
    id: 'net',
    name: 'test',
    mac: NET_MAC,
    mtu: 0,
    queuePairs: 1,
    queueSize: 256,
    offloads: 0n,
    macFilter: false,
    stream: false,
    fds,
    vhostFds: [],
    rx: {},
    tx: {},
    ...change,
  };
}

export function machineImage(change: Partial<MachineImage> = {}): MachineImage {
  return {
    memoryBytes: 64 * 2 ** 20,
    hugePages: 'transparent',
    prefault: false,
    cpuCount: 2,
    segments: [{ name: 'code', address: 0x100000, bytes: Buffer.from('hlt') }],
    registers: startRegisters(CODE_64, 0x100000),
    entry: 'pvh',
    bootTimer: false,
    virtio: [{ kind: 'virtio-rng', slot: { address: 0xd0001000, pin: 6 } }],
    ...change,
  };
}
