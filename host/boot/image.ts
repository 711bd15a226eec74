// The machine image: everything a cell needs to start a guest, as pure data (docs/design.md).
// host/boot/ composes it; an engine maps it and runs. Nothing here knows a kernel format.

/** Bytes to place at a guest-physical address. */
export interface BytesSegment {
  name: string;
  address: number;
  bytes: Uint8Array;
}

/** A range of an open file to place at a guest-physical address. */
export interface FileSegment {
  name: string;
  address: number;
  path: string;
  fileOffset: number;
  lengthBytes: number;
}

export type Segment = BytesSegment | FileSegment;

/** How the first vCPU enters the guest: the only two protocols Faraday speaks. */
export type EntryMode = 'pvh' | 'linux64';

/** A segment register as KVM_SET_SREGS takes it. */
export interface SegmentRegister {
  base: bigint;
  limit: number;
  selector: number;
  type: number;
  present: number;
  dpl: number;
  db: number;
  s: number;
  l: number;
  g: number;
}

/** Start registers of vCPU 0; what is not named is zero (rflags: 2). */
export interface VcpuRegisters {
  rip: bigint;
  rsp: bigint;
  rbx: bigint;
  rsi: bigint;
  cr0: bigint;
  cr3: bigint;
  cr4: bigint;
  efer: bigint;
  gdtBase: bigint;
  gdtLimit: number;
  idtBase: bigint;
  idtLimit: number;
  code: SegmentRegister;
  data: SegmentRegister; // ds, es, fs, gs, ss
  task: SegmentRegister;
}

/** One virtio-mmio window: its page and its IOAPIC pin. */
export interface VirtioSlot {
  address: number;
  pin: number;
}

/** A disk as the engine sees it. The host opened `fd` already. */
export interface DiskDevice {
  kind: 'virtio-blk';
  slot: VirtioSlot;
  id: string;
  path: string;
  fd: number;
  capacityBytes: number;
  readOnly: boolean;
  ioUring: boolean; // else one request after the other
  writeback: boolean;
  queueCount: number;
  queueSize: number;
}

export interface RngDevice {
  kind: 'virtio-rng';
  slot: VirtioSlot;
}

/** A token bucket, with Firecracker's fields and their meaning. */
export interface TokenBucket {
  size: number; // tokens it holds: bytes, or frames
  oneTimeBurst: number; // tokens on top of that, which are not filled up again
  refillMs: number; // in which an empty bucket fills
}

/** The limits of one direction; left out: none. */
export interface RateLimiter {
  bandwidth?: TokenBucket; // in bytes
  ops?: TokenBucket; // in frames
}

/** A network device as the engine sees it. The host opened its descriptors already. */
export interface NetDevice {
  kind: 'virtio-net';
  slot: VirtioSlot;
  id: string;
  name: string; // of the tap or macvtap; 'passt'
  mac: string; // 'aa:bb:cc:dd:ee:ff', lower case
  mtu: number; // bytes; 0: the guest is told none
  queuePairs: number;
  queueSize: number;
  offloads: bigint; // VIRTIO_NET_F_* that its backend can do
  macFilter: boolean; // drop what the guest sends from another address
  stream: boolean; // the one descriptor is a stream socket (passt), not a tap
  fds: readonly number[]; // one for each queue pair
  vhostFds: readonly number[]; // as many of /dev/vhost-net, or none
  rx: RateLimiter;
  tx: RateLimiter;
}

export type VirtioDevice = DiskDevice | NetDevice | RngDevice;

/** The pages guest RAM is made of: ordinary, large where the kernel finds any, from the pool. */
export type HugePages = 'off' | 'transparent' | '2M';

/** The whole machine, before its first instruction. */
export interface MachineImage {
  memoryBytes: number;
  hugePages: HugePages;
  prefault: boolean; // touch all of guest RAM before the guest starts
  cpuCount: number;
  segments: Segment[];
  registers: VcpuRegisters;
  entry: EntryMode;
  bootTimer: boolean;
  virtio: VirtioDevice[];
}
