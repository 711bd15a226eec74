// What a cell and its host say to each other over the control socket: little-endian records of
// fixed layout. The build makes C macros of the numbers (CELL_). The host trusts nothing a cell
// says.

// Descriptors a cell finds open when a host spawns it.
export const FD_CONTROL = 3;
export const FD_IMAGE = 4;
export const FD_KVM = 5;
// The first file that the image refers to, then the others, then what --record names.
export const FD_FILES = 6;

// --- Messages -----------------------------------------------------------------------------------

export const MESSAGE_TYPE = 0; // u32
export const MESSAGE_LENGTH = 4; // u32, bytes that follow
export const MESSAGE_HEADER_BYTES = 8;
export const MESSAGE_BYTES_MAX = 16384;

// From the cell:
export const STARTED = 1; // vCPUs run; no payload
export const MARKER = 2; // the boot timer's marker came; no payload
export const FAILED = 3; // it could not start: FAILED_*
export const LOG = 4; // a line of text for the log, LOG_*
export const ENDED = 5; // the report, REPORT_*; the cell's last message
export const PAUSED = 6; // all vCPUs stand still, no request is in flight; no payload
export const RESUMED = 7; // no payload
export const CONFINED = 8; // what confines it, told before the guest starts: CONFINED_*
export const VIOLATION = 9; // a forbidden system call, then its end: VIOLATION_*
export const RECORDED = 10; // its recording is over, before ENDED: RECORDED_*
export const NET = 11; // what a network device did, before ENDED: NET_*

// To the cell: a type and one u32.
export const COMMAND_BYTES = 8;
export const COMMAND_PAUSE = 1;
export const COMMAND_RESUME = 2;
export const COMMAND_STOP = 3; // with the number of the signal it stands for

export const FAILED_EXIT_CODE = 0; // u32
export const FAILED_ERRNO = 4; // u32, or 0
export const FAILED_CALL = 8; // text, NUL-padded
export const FAILED_CALL_BYTES = 40;
export const FAILED_ABOUT = 48; // text, NUL-padded
export const FAILED_ABOUT_BYTES = 208;
export const FAILED_BYTES = 256;

export const LOG_LEVEL = 0; // u32, LOG_LEVEL_*
export const LOG_TEXT = 4;
export const LOG_TEXT_BYTES = 252;
export const LOG_BYTES = 256;
export const LOG_LEVEL_ERROR = 0;
export const LOG_LEVEL_WARN = 1;
export const LOG_LEVEL_INFO = 2;

export const RECORDED_ERRNO = 0; // u32: why it is not whole, or 0
export const RECORDED_BYTES = 4;

// --- Confinement --------------------------------------------------------------------------------

// How a layer is wanted, on the command line of a cell: --landlock=N, --namespaces=N.
export const MODE_OFF = 0;
export const MODE_AUTO = 1; // as far as this kernel and this user's rights go
export const MODE_REQUIRED = 2; // or no start
// --seccomp=N
export const SECCOMP_OFF = 0;
export const SECCOMP_LOG = 1; // a forbidden call is written to the kernel's log, and carried out
export const SECCOMP_ENFORCE = 2;

export const CONFINED_NAMESPACES = 0; // u32, NAMESPACE_* bits: those of its own
export const CONFINED_NAMESPACES_ERRNO = 4; // u32: why some are missing, or 0
export const CONFINED_LANDLOCK_ABI = 8; // u32: what the kernel knows; 0: no domain
export const CONFINED_LANDLOCK_ERRNO = 12; // u32: why there is none, or 0
export const CONFINED_SECCOMP = 16; // u32, SECCOMP_*
export const CONFINED_USER = 20; // u32: the effective user id, before it makes a user namespace
export const CONFINED_GROUP = 24; // u32
export const CONFINED_CAPABILITIES = 28; // u32, CAPABILITIES_* bits
export const CONFINED_NO_NEW_PRIVS = 32; // u32
export const CONFINED_DUMPABLE = 36; // u32
export const CONFINED_PROCESSES = 40; // u64, limit; all ones: none
export const CONFINED_FILES = 48; // u64, limit
export const CONFINED_ADDRESS_SPACE = 56; // u64, bytes
export const CONFINED_BYTES = 64;

export const NAMESPACE_USER = 1;
export const NAMESPACE_MOUNT = 2; // with an empty root
export const NAMESPACE_PID = 4;
export const NAMESPACE_NET = 8;
export const NAMESPACE_IPC = 16;
export const NAMESPACE_UTS = 32;
export const NAMESPACE_CGROUP = 64;

export const CAPABILITIES_NONE_HELD = 1; // permitted, effective and inheritable are empty
export const CAPABILITIES_NONE_AMBIENT = 2;
export const CAPABILITIES_NONE_BOUNDING = 4;

export const VIOLATION_CALL = 0; // u32, number of the system call
export const VIOLATION_ROLE = 4; // u32, ROLE_* of host/confine/cell-policy.ts
export const VIOLATION_INDEX = 8; // u32: which vCPU
export const VIOLATION_ARGUMENTS = 16; // u64 each
export const VIOLATION_ARGUMENT_COUNT = 6;
export const VIOLATION_BYTES = 64;

// --- The report ---------------------------------------------------------------------------------

export const REPORT_CAUSE = 0; // u32, CAUSE_*
export const REPORT_SIGNAL = 4; // u32, with CAUSE_SIGNAL
export const REPORT_EXIT_KIND = 8; // u32, EXIT_* of host/shim.ts, with CAUSE_KVM_ERROR
export const REPORT_DEVICE_COUNT = 12; // u32
export const REPORT_EXIT_CODE = 16; // u64, what KVM said with it
export const REPORT_PHASES = 24; // u64 each: CLOCK_MONOTONIC nanoseconds, 0 for what never happened
export const PHASE_ENTERED = 0; // the cell's main() began
export const PHASE_LOADED = 1; // guest memory holds the image
export const PHASE_CREATED = 2; // the machine and its vCPUs exist
export const PHASE_RUNNING = 3; // before the first KVM_RUN
export const PHASE_MARKER = 4; // the boot timer's marker
export const PHASE_ENDED = 5; // the guest is over
export const PHASE_COUNT = 6;
export const REPORT_EXITS = 72; // u64 each, by EXIT_*
export const EXIT_KIND_COUNT = 11;
export const REPORT_UNCLAIMED = 160; // u64, accesses that no device answers
export const REPORT_CRASHED = 168; // u32: registers follow
export const REPORT_INSTRUCTION_COUNT = 172; // u32
export const REPORT_INSTRUCTION = 176; // 16 bytes at rip
export const REPORT_REGISTERS = 192; // u64 each, in the order of CRASH_REGISTERS
export const REGISTER_COUNT = 45;
export const REPORT_DEVICES = 576;
export const REPORT_DEVICE_COUNT_MAX = 24;
export const REPORT_DEVICE_STRIDE = 384;
export const REPORT_BYTES = REPORT_DEVICES + REPORT_DEVICE_COUNT_MAX * REPORT_DEVICE_STRIDE;

export const CAUSE_POWER_OFF = 1;
export const CAUSE_REBOOT = 2;
export const CAUSE_PANIC = 3;
export const CAUSE_TRIPLE_FAULT = 4;
export const CAUSE_KVM_ERROR = 5;
export const CAUSE_SIGNAL = 6;
export const CAUSE_CONSOLE_QUIT = 7;
export const CAUSE_HOST_GONE = 8; // the control socket closed

export const DEVICE_NAME = 0; // text, NUL-padded: 'serial', 'disk:rootfs'
export const DEVICE_NAME_BYTES = 32;
export const DEVICE_KIND = 32; // u32, KIND_*
export const DEVICE_DEAD = 36; // u32: out of service after two traps
export const DEVICE_EXITS = 40; // u64
export const DEVICE_TRAPS = 48; // u32
export const DEVICE_ENGINE = 52; // u32, ENGINE_* of a disk
export const DEVICE_REQUESTS = 56; // u64
export const DEVICE_BYTES_READ = 64; // u64
export const DEVICE_BYTES_WRITTEN = 72; // u64
export const DEVICE_ERRORS = 80; // u64
export const DEVICE_LAST_ERRNO = 88; // u32
export const DEVICE_INCIDENTS = 96; // u32 each, by INCIDENT_*
export const DEVICE_READ_LATENCY = 160; // u32 each: requests that took below 2^i microseconds
export const DEVICE_WRITE_LATENCY = 256; // likewise: writes, flushes and the rest
export const LATENCY_BUCKETS = 24;

// What each queue of a network device did: those of frames, not the control queue.
export const NET_DEVICE = 0; // u32, its place among the devices of the report
export const NET_QUEUE_COUNT = 4; // u32
export const NET_GONE = 8; // u32: its backend went away
export const NET_QUEUES = 16;
export const NET_QUEUE_COUNT_MAX = 16;
export const NET_QUEUE_STRIDE = 64;
export const NET_QUEUE_FRAMES = 0; // u64
export const NET_QUEUE_BYTES = 8; // u64, without the headers of virtio
export const NET_QUEUE_DROPS = 16; // u64 each, by NET_DROP_*
export const NET_BYTES = NET_QUEUES + NET_QUEUE_COUNT_MAX * NET_QUEUE_STRIDE;

export const NET_DROP_OVERSIZE = 0; // the driver had no room for a frame of that length
export const NET_DROP_REFUSED = 1; // the backend did not take it
export const NET_DROP_DOWN = 2; // the interface was down, or gone
export const NET_DROP_SPOOFED = 3; // from another address than the device's
export const NET_DROP_STALE = 4; // its driver was not there any more, or not yet
export const NET_DROP_COUNT = 5;

export const ENGINE_NONE = 0;
export const ENGINE_SYNC = 1;
export const ENGINE_IO_URING = 2;
