// The typed seam to the native shim: the only importer of the .node file.
// Every call either returns or throws a NativeError whose `code` is an errno name ('EACCES') and
// whose `syscall` names the call ('KVM_CREATE_VM', 'preadv').
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type { VcpuRegisters } from './boot/image.ts';
import type { CoreExports } from './cage.ts';

export * from './access-format.ts';

export interface NativeError extends Error {
  code: string;
  errno: number;
  syscall: string;
}

// Exit kinds, as run() returns them. The build makes C macros of every number in this file.
export const EXIT_KICKED = 0; // the watcher has events: see takeEvents()
export const EXIT_IO_READ = 1; // answer with the record's data, then run() again
export const EXIT_IO_WRITE = 2;
export const EXIT_MMIO_READ = 3; // answer with the record's data, then run() again
export const EXIT_MMIO_WRITE = 4;
export const EXIT_HALT = 5; // KVM_EXIT_HLT: not with the in-kernel interrupt controller
export const EXIT_SHUTDOWN = 6; // triple fault
export const EXIT_FAIL_ENTRY = 7; // record address: hardware_entry_failure_reason
export const EXIT_INTERNAL_ERROR = 8; // record address: suberror
export const EXIT_SYSTEM_EVENT = 9; // record address: type
export const EXIT_UNKNOWN = 10; // record address: KVM's exit reason

// The exit record: 24 bytes at the start of Vm.exit.
export const EXIT_RECORD_ADDRESS = 0; // u64, port or guest-physical address
export const EXIT_RECORD_WIDTH = 8; // u32, bytes: 1, 2, 4 (8 for MMIO)
export const EXIT_RECORD_DATA = 16; // u64, little endian, what is written or to be answered
export const EXIT_RECORD_BYTES = 24;

// Watcher events, as takeEvents() returns them.
export const EVENT_INPUT = 1; // the console input has bytes or is at its end
export const EVENT_SIGINT = 2;
export const EVENT_SIGTERM = 4;
export const EVENT_SIGHUP = 8;
export const EVENT_REMINDER = 16; // the time given to remind() is over

// Node 20 takes no external ArrayBuffer beyond 4 GiB: see GuestMemory.windows.
export const WINDOW_OVERLAP = 0x100000;
export const WINDOW_STRIDE = 0x100000000 - WINDOW_OVERLAP;

// What a call into a native cage answers when it trapped; no effect bit of the core's.
export const CAGE_TRAPPED = 0x80000000;

export interface VmOptions {
  memoryBytes: number; // a multiple of 4096
  cpuCount: number; // 1 to 255; this engine runs vCPU 0 only, CPUID is set up for as many
  kvmPath?: string; // default: /dev/kvm
}

/**
 * What a crash report holds. On AMD hosts KVM resets the vCPU at a triple fault, so that the
 * registers then show the reset state (rip 0xfff0) and not the fault.
 */
export interface CrashState {
  registers: Record<string, bigint>; // names as in struct kvm_regs, kvm_sregs: 'rip', 'cs.base'
  instructionBytes: Uint8Array; // at rip, at most 16, empty where it cannot be translated
}

/** Guest RAM and what executes requests on it; works without KVM. */
export interface GuestMemory {
  /**
   * Guest RAM as one row of bytes: gpa below 3 GiB at its own offset, gpa from 4 GiB on at
   * gpa - 1 GiB. Window i begins at offset i * WINDOW_STRIDE and overlaps the next one, so that any
   * access of up to WINDOW_OVERLAP bytes lies in the window where it begins. One up to 4 GiB.
   */
  readonly windows: readonly ArrayBuffer[];
  /** The first window: all of RAM where that is no more than 4 GiB. */
  readonly memory: ArrayBuffer;
  /** Reads a file range into guest RAM. ERANGE when it does not fit, EIO when the file ends. */
  loadFile(fd: number, fileOffset: number, lengthBytes: number, address: number): void;
  loadBytes(bytes: Uint8Array, address: number): void;
  /**
   * Executes one virtio-blk request record (abi.ts, REQUEST) straight between `fd` and guest RAM.
   * Copies the record out first and trusts nothing in it; bytes behind its end are ignored.
   * Returns RESULT_*; never throws for I/O.
   */
  executeBlock(disk: DiskRights, record: Uint8Array): BlockResult;
  /**
   * Fills the record's ranges with getrandom(2) bytes, ENTROPY_BYTES_MAX at most; returns RESULT_*
   * and the bytes written.
   */
  executeEntropy(record: Uint8Array): BlockResult;
  /** A device's instance of the core as C, which reaches this memory; EBADF once it is closed. */
  createCage(): NativeCage;
  /** Gives everything back and detaches the buffers: they have length 0 from then on. */
  close(): void;
}

/**
 * The core's exports over an instance of its own (docs/abi.md). Numbers are u32 both ways; a call
 * that trapped answers CAGE_TRAPPED, and the memory must be cleared before the next one.
 */
export interface NativeCage extends Omit<CoreExports, 'memory'> {
  readonly memory: ArrayBuffer; // CAGE_MEMORY_BYTES, all zero at first
  /** Logs accesses from now on, in at most so many bytes between two takes; 0 stops it. */
  logAccesses(capacityBytes: number): void;
  /**
   * While accesses are logged: puts into guest memory what each read of `accesses` found, just
   * before the cage makes the same one in its turn. Until the next take.
   */
  serveAccesses(accesses: Uint8Array): void;
  /** The accesses since the last take, as ACCESS_ENTRY_* has them. ENOBUFS: some were lost. */
  takeAccesses(): Uint8Array;
  close(): void;
}

/** One virtual machine with one stepping vCPU, which only the creating thread may run. */
export interface Vm extends GuestMemory {
  readonly exit: ArrayBuffer;
  setRegisters(registers: VcpuRegisters): void;
  /**
   * Runs vCPU 0 to its next exit. PIO string operations come one element at a time. Any signal
   * that this thread takes meanwhile ends it with EXIT_KICKED too. Throws where KVM_RUN fails.
   */
  run(): number;
  /** Raises one edge on an IOAPIC pin (KVM_IRQ_LINE 1, then 0). */
  pulseIrq(pin: number): void;
  crashState(): CrashState;
}

export interface DiskRights {
  fd: number;
  capacityBytes: number;
  readOnly: boolean;
}

export interface BlockResult {
  result: number; // RESULT_*
  bytes: number; // moved
  // '' or the errno name behind RESULT_IOERR; EROFS: a write to a read-only disk. EPROTO: the
  // record breaks abi.ts or leaves the disk or guest RAM, which no honest cage does.
  errno: string;
}

export interface WatcherOptions {
  inputFd: number; // -1: none
  outputFd: number; // -1: none, output is dropped
  signals: boolean; // catch SIGINT, SIGTERM, SIGHUP from now on; one watcher at a time may
}

/** Watches console input and signals on a small thread; kicks vCPU 0 of `vm` out of KVM_RUN. */
export interface Watcher {
  takeEvents(): number; // EVENT_* bits since the last call
  /**
   * Reads what is there without blocking, 65536 bytes at most: null when nothing is, length 0 at
   * the end of input.
   */
  readInput(maxBytes: number): Uint8Array | null;
  /** Looks at the input again; the watcher stops looking once it reported EVENT_INPUT. */
  watchInput(): void;
  /** Reports EVENT_REMINDER once, so many milliseconds from now; 0 takes a reminder back. */
  remind(milliseconds: number): void;
  /**
   * Writes to the console, waiting while it is full, but returns early once an event is pending.
   * Returns the bytes written; a closed reader (EPIPE) swallows the rest silently.
   */
  writeOutput(bytes: Uint8Array): number;
  close(): void; // stops the thread, gives the signals back
}

/** What `faraday check` asks the kernel. A number is the raw answer of KVM_CHECK_EXTENSION. */
export interface HostProbe {
  kvmApiVersion: number;
  extensions: Record<string, number>;
}

/** What the kernel has to confine a process with. Errno names are '' for what is there. */
export interface ConfinementProbe {
  landlockAbi: number; // 0: not available
  landlockErrno: string;
  seccomp: boolean; // filters that kill the process
  seccompTrap: boolean;
  seccompLog: boolean;
  noNewPrivs: boolean;
  ioUringErrno: string; // of a ring that is restricted to some operations
}

// Descriptors of startChild() that are none of this process.
export const CHILD_NULL = -1; // /dev/null
export const CHILD_CONTROL = -2; // the child's end of the socket pair

// In place of a descriptor for ioctl(): a socket of its own, for requests about interfaces.
export const IOCTL_SOCKET = -1;

// What stays allowed with a path and all below it, once this process has restricted itself.
export const PATH_READ = 1; // read files, list folders
export const PATH_WRITE = 2; // write files and cut them off
export const PATH_CHANGE = 4; // make, rename and remove files and folders
export const PATH_EXECUTE = 8;
export const PATH_DEVICE = 16; // requests to a device

export interface Child {
  pid: number;
  control: number; // a descriptor
}

export interface Shim {
  createMemory(memoryBytes: number): GuestMemory;
  createVm(options: VmOptions): Vm;
  /** One watcher per machine. EBUSY: another watcher has the signals; EBADF: an fd is not open. */
  createWatcher(vm: Vm, options: WatcherOptions): Watcher;
  /** Opens /dev/kvm and asks; throws ENOENT, EACCES... */
  probeKvm(): HostProbe;
  probeConfinement(): ConfinementProbe;
  /** Tries to make each namespace, in a process that is gone after: errno names, '' for made. */
  probeNamespaces(): Record<string, string>;
  /** Takes an OFD lock on the whole file (shared for readers). False: somebody else holds it. */
  lockFile(fd: number, exclusive: boolean): boolean;
  /**
   * ioctl(2) with a number, or with bytes that the kernel reads and may write: they must be as long
   * as `request` has it, where its number says so. Returns what the call answers.
   */
  ioctl(fd: number, request: number, argument: number | Uint8Array): number;
  /**
   * Starts words[0] with those arguments and an empty environment; descriptors[n] becomes its
   * number n. `session`: in a session of its own; `namespaces`: where possible with process numbers
   * of its own. `control` is this end of a socket pair.
   */
  startChild(words: string[], descriptors: number[], session: boolean, namespaces: boolean): Child;
  /** No program that this process executes from now on gains rights by it. */
  setNoNewPrivs(): void;
  /**
   * Restricts this thread, and all that it starts from now on, to `paths` with `rights` (PATH_*,
   * one for each). `outside`: startChild() goes on starting children outside of that, as a cell
   * has to mount. `abi`: of the kernel; 0 and an errno name where nothing is restricted.
   */
  enterLandlock(
    paths: string[],
    rights: number[],
    outside: boolean,
  ): { abi: number; errno: string };
  /** The same again, narrower; startChild()'s children are inside too. '' or an errno name. */
  narrowLandlock(paths: string[], rights: number[]): string;
  /** Gives up all capabilities of this thread but those whose bits are set. */
  dropCapabilities(keep: number): void;
  /** The wait status of a child that is over, null while it is not. Does not wait. */
  reapChild(pid: number): number | null;
  /**
   * Puts the terminal in raw mode, remembers how it was; restored at exit and on abort too, and raw
   * again when a stopped process continues. A background job stops until it is in the foreground.
   * ENOTTY; EIO: continued in the background; EBUSY while another terminal is raw.
   */
  terminalRaw(fd: number): void;
  /**
   * Remembers how the terminal is, for terminalRestore() and for the exit: another process makes
   * it raw. A background job stops until it is in the foreground. ENOTTY, EIO, EBUSY as above.
   */
  terminalRemember(fd: number): void;
  terminalRestore(): void;
}

let loaded: Shim | undefined;

/** Loads build/faraday.node, at the first use only. */
export function shim(): Shim {
  if (!loaded) {
    const path = join(import.meta.dirname, '../build/faraday.node');
    loaded = createRequire(path)(path) as Shim;
  }
  return loaded;
}
