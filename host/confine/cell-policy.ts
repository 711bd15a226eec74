// What each thread of a cell may ask of the kernel: the reviewed tables behind its seccomp filters.
// The build compiles them (bpf.ts, tools/build-filters.ts) into the cell, and `--explain-sandbox`
// prints them: there is no second list.
//
// A row allows one call, where it has conditions only with arguments that meet all of them; several
// rows for one call are alternatives. `caller` is the function that makes it. A row that ordinary
// runs do not use says in `keep` why it stays: test/cell-syscalls.test.ts fails for any other row
// that no traced run used. Not listed is not allowed.
import type { ROLE_NAMES } from './roles.ts';

/** Numbers of C headers; tools/build-filters.ts has the compiler compare them. */
export const NUMBERS = {
  // linux/kvm.h
  KVM_CREATE_VM: 0xae01,
  KVM_CHECK_EXTENSION: 0xae03,
  KVM_GET_VCPU_MMAP_SIZE: 0xae04,
  KVM_GET_SUPPORTED_CPUID: 0xc008ae05,
  KVM_CREATE_VCPU: 0xae41,
  KVM_SET_USER_MEMORY_REGION: 0x4020ae46,
  KVM_SET_TSS_ADDR: 0xae47,
  KVM_SET_IDENTITY_MAP_ADDR: 0x4008ae48,
  KVM_CREATE_IRQCHIP: 0xae60,
  KVM_IRQFD: 0x4020ae76,
  KVM_CREATE_PIT2: 0x4040ae77,
  KVM_IOEVENTFD: 0x4040ae79,
  KVM_RUN: 0xae80,
  KVM_GET_REGS: 0x8090ae81,
  KVM_SET_REGS: 0x4090ae82,
  KVM_GET_SREGS: 0x8138ae83,
  KVM_SET_SREGS: 0x4138ae84,
  KVM_TRANSLATE: 0xc018ae85,
  KVM_SET_MSRS: 0x4008ae89,
  KVM_SET_FPU: 0x41a0ae8d,
  KVM_GET_LAPIC: 0x8400ae8e,
  KVM_SET_LAPIC: 0x4400ae8f,
  KVM_SET_CPUID2: 0x4008ae90,
  KVM_GET_TSC_KHZ: 0xaea3,
  // linux/if_tun.h, linux/vhost.h
  TUNSETOFFLOAD: 0x400454d0,
  TUNSETQUEUE: 0x400454d9,
  VHOST_GET_FEATURES: 0x8008af00,
  VHOST_SET_FEATURES: 0x4008af00,
  VHOST_SET_OWNER: 0xaf01,
  VHOST_SET_MEM_TABLE: 0x4008af03,
  VHOST_SET_VRING_NUM: 0x4008af10,
  VHOST_SET_VRING_ADDR: 0x4028af11,
  VHOST_SET_VRING_BASE: 0x4008af12,
  VHOST_GET_VRING_BASE: 0xc008af12,
  VHOST_SET_VRING_KICK: 0x4008af20,
  VHOST_SET_VRING_CALL: 0x4008af21,
  VHOST_NET_SET_BACKEND: 0x4008af30,
  // asm-generic/ioctls.h, linux/fs.h
  TCGETS: 0x5401,
  TCSETS: 0x5402,
  TIOCGPGRP: 0x540f,
  BLKGETSIZE64: 0x80081272,
  // linux/futex.h, linux/time.h
  FUTEX_WAIT_PRIVATE: 128,
  FUTEX_WAKE_PRIVATE: 129,
  CLOCK_REALTIME: 0,
  CLOCK_MONOTONIC: 1,
  // linux/mman.h, linux/prctl.h, linux/seccomp.h, linux/io_uring.h, fcntl.h
  PROT_EXEC: 4,
  MADV_DONTFORK: 10,
  MADV_HUGEPAGE: 14,
  MADV_NOHUGEPAGE: 15,
  MADV_DONTDUMP: 16,
  MADV_POPULATE_WRITE: 23,
  PR_SET_NAME: 15,
  SECCOMP_SET_MODE_FILTER: 1,
  IORING_REGISTER_FILES: 2,
  IORING_REGISTER_RESTRICTIONS: 11,
  IORING_REGISTER_ENABLE_RINGS: 12,
  IORING_ENTER_GETEVENTS: 1,
  F_GETFD: 1,
  F_GETFL: 3,
  F_OFD_SETLK: 37,
  AT_EMPTY_PATH: 0x1000,
  // linux/sched.h
  SCHED_BATCH: 3,
  // Names of our own; what they are in C is in tools/build-filters.ts
  NO_FLAGS: 0,
  THIS_PROCESS: 0,
  THREAD_FLAGS: 0x3d0f00, // of pthread_create(): a thread of this process and nothing else
  PUNCH_HOLE: 3, // and keep the file's size
  ZERO_RANGE: 17, // likewise
} as const;

export type NumberName = keyof typeof NUMBERS;

/** A condition on one argument, counted from 0. Only its low 32 bits count, as in the kernel. */
export type Condition =
  | { argument: number; is: NumberName }
  | { argument: number; without: NumberName } // none of these bits
  | { argument: number; isOwnProcess: true };

export interface Row {
  call: string;
  when?: readonly Condition[];
  caller: string;
  reason: string;
  keep?: string;
}

export interface Role {
  name: (typeof ROLE_NAMES)[number];
  what: string;
  rows: readonly Row[];
}

const plain = (call: string, caller: string, reason: string, keep?: string): Row => {
  return { call, caller, reason, keep };
};

/** A call whose one argument, counted from 0, has to be this number. */
const only = (call: string, argument: number) => {
  return (is: NumberName, caller: string, reason: string, keep?: string): Row => {
    return { call, when: [{ argument, is }], caller, reason, keep };
  };
};

const request = only('ioctl', 1);
const futex = only('futex', 1);
const clock = only('clock_gettime', 0);
const fcntl = only('fcntl', 1);
const advice = only('madvise', 2);

// --- What all threads share ---------------------------------------------------------------------

const LOCKS: readonly Row[] = [
  futex('FUTEX_WAIT_PRIVATE', 'pthread_mutex_lock, futex_wait', "a device's lock; standing still"),
  futex('FUTEX_WAKE_PRIVATE', 'pthread_mutex_unlock, futex_wake', 'the other side of it'),
];
const EXIT = plain('exit_group', '_exit', 'the end of the cell, also after a forbidden call');
const RESTORE: readonly Row[] = [
  request('TCSETS', 'terminal_restore', "gives the user's terminal back"),
  plain('rt_sigprocmask', 'set_attributes', 'giving it back must not stop the process'),
];
const SLOW_CLOCK = "a call only where the host's clock source cannot be read from user space";
const CLOCK = clock('CLOCK_MONOTONIC', 'monotonic_ns', 'the time of an event', SLOW_CLOCK);
const RESTART = plain('restart_syscall', 'the kernel', 'a wait goes on after SIGSTOP and SIGCONT');

// --- While the guest runs -----------------------------------------------------------------------

const VCPU: Role = {
  name: 'vcpu',
  what: 'one per virtual CPU: runs the guest and answers its exits',
  rows: [
    request('KVM_RUN', 'vcpu_step', 'runs the guest'),
    request('KVM_GET_REGS', 'vcpu_read_crash', 'the registers of a guest that crashed'),
    request('KVM_GET_SREGS', 'vcpu_read_crash', 'likewise'),
    request('KVM_TRANSLATE', 'vcpu_read_crash', 'the instruction bytes of that guest'),
    ...LOCKS,
    plain('write', 'machine_wake, device_interrupt', 'eventfds: news, interrupts'),
    plain('rt_sigreturn', 'on_kick', 'a kick out of KVM_RUN'),
    CLOCK,
    clock('CLOCK_REALTIME', 'tell_time', 'the time of day for the RTC', SLOW_CLOCK),
    ...RESTORE,
    EXIT,
  ],
};

const enter = only('io_uring_enter', 3);
const allocate = only('fallocate', 1);

const IO: Role = {
  name: 'io',
  what: 'the first thread: doorbells, disks, console input, commands of the host',
  rows: [
    plain('epoll_wait', 'io_run', 'waits for whatever comes next'),
    plain('epoll_ctl', 'watch_input', 'looks at the input while it is wanted'),
    {
      call: 'read',
      caller: 'counter_drain, take_signal, console_read, control_receive',
      reason: 'doorbells, signals, what is typed, commands',
    },
    {
      call: 'write',
      caller: 'device_interrupt, machine_wake, say, print_line',
      reason: 'interrupts, news, messages to the host',
    },
    {
      call: 'poll',
      caller: 'console_read, say, server_drain, vcpu_kick',
      reason: 'is there input; room for the last word; short pauses',
    },
    plain('preadv', 'transfer', 'reads a disk into guest memory'),
    plain('pwritev', 'transfer, write_zeros_slowly', 'writes guest memory to a disk'),
    plain('fdatasync', 'sync_data', 'the guest flushes its disk'),
    allocate('PUNCH_HOLE', 'allocate', 'the guest discards a range'),
    allocate('ZERO_RANGE', 'allocate', 'the guest zeroes a range'),
    enter('NO_FLAGS', 'uring_submit', 'disks with io-engine=io_uring'),
    enter('IORING_ENTER_GETEVENTS', 'uring_wait', 'waits for them before a pause and at the end'),
    plain('getrandom', 'entropy_execute', 'randomness for the guest'),
    {
      call: 'tgkill',
      when: [{ argument: 0, isOwnProcess: true }],
      caller: 'vcpu_kick',
      reason: 'kicks a vCPU of this process out of KVM_RUN',
    },
    ...LOCKS,
    RESTART,
    CLOCK,
    request('TIOCGPGRP', 'on_continue', "whose terminal it is after a stopped job's SIGCONT"),
    plain('rt_sigreturn', 'on_continue, on_fault', 'a stopped job goes on; a fault'),
    ...RESTORE,
    EXIT,
  ],
};

const CONSOLE: Role = {
  name: 'console',
  what: "writes the guest's console output, so that a reader who is slow keeps nobody else waiting",
  rows: [
    plain('write', 'write_some', 'console output'),
    plain('poll', 'write_some', 'waits for a reader where somebody else made it non-blocking'),
    ...LOCKS,
    RESTART,
    CLOCK,
    ...RESTORE,
    EXIT,
  ],
};

const NO_VHOST = 'only with vhost-net';

const NET: Role = {
  name: 'net',
  what: "serves the network devices' queues: frames between their taps and guest memory",
  rows: [
    plain('epoll_wait', 'net_run', 'waits for frames, doorbells, news of the guest'),
    plain('epoll_ctl', 'net_watch', 'looks at a tap while the guest has room, or a frame for it'),
    plain('read', 'counter_drain, read_more', 'doorbells; frames of passt'),
    plain('readv', 'tap_receive', 'a frame for the guest'),
    plain('writev', 'tap_send, stream_send', 'a frame of the guest'),
    plain(
      'write',
      'device_interrupt, machine_wake, stream_flush',
      'interrupts, news, frames of passt',
    ),
    plain('sched_yield', 'net_give_way', 'lets a guest on the same processor fill its ring'),
    request('TUNSETOFFLOAD', 'tap_set_offloads', 'which frames the guest can take'),
    request('TUNSETQUEUE', 'tap_set_queue', 'how many queues the guest uses'),
    request('VHOST_SET_FEATURES', 'vhost_start', 'what the guest negotiated', NO_VHOST),
    request('VHOST_SET_VRING_NUM', 'vhost_start', 'the size of a ring', NO_VHOST),
    request('VHOST_SET_VRING_BASE', 'vhost_start', 'where to begin in it', NO_VHOST),
    request('VHOST_SET_VRING_ADDR', 'vhost_start', 'where it lies, inside guest RAM', NO_VHOST),
    request('VHOST_GET_VRING_BASE', 'vhost_stop', 'where the kernel ended in it', NO_VHOST),
    request('VHOST_NET_SET_BACKEND', 'vhost_start, vhost_stop', 'gives and takes a ring', NO_VHOST),
    ...LOCKS,
    CLOCK,
    ...RESTORE,
    EXIT,
  ],
};

// --- Before the guest starts --------------------------------------------------------------------

const SETUP_REQUESTS: readonly Row[] = [
  request('KVM_CHECK_EXTENSION', 'require_extensions', 'what this KVM can do'),
  request('KVM_CREATE_VM', 'create_machine', 'the machine'),
  request('KVM_SET_USER_MEMORY_REGION', 'set_slot', 'its memory'),
  request('KVM_SET_IDENTITY_MAP_ADDR', 'create_controllers', "KVM's own pages"),
  request('KVM_SET_TSS_ADDR', 'create_controllers', "KVM's own pages"),
  request('KVM_CREATE_IRQCHIP', 'create_controllers', 'interrupt controllers'),
  request('KVM_CREATE_PIT2', 'create_timer', 'a timer', 'only without TSC deadline mode'),
  request('KVM_IRQFD', 'vm_add_irqfd', 'interrupt lines'),
  request('KVM_IOEVENTFD', 'vm_add_ioeventfd', 'doorbells'),
  request('KVM_GET_VCPU_MMAP_SIZE', 'vcpu_create', 'the size of kvm_run'),
  request('KVM_CREATE_VCPU', 'vcpu_create', 'a virtual CPU'),
  request('KVM_GET_SUPPORTED_CPUID', 'cpuid_set', 'what it may be'),
  request('KVM_SET_CPUID2', 'cpuid_set', 'what it is'),
  request('KVM_SET_MSRS', 'vcpu_reset_state', 'its state after reset'),
  request('KVM_GET_LAPIC', 'vcpu_reset_state', 'its state after reset'),
  request('KVM_SET_LAPIC', 'vcpu_reset_state', 'its state after reset'),
  request('KVM_SET_FPU', 'vcpu_reset_state', 'its state after reset'),
  request('KVM_SET_SREGS', 'vcpu_set_registers', 'its start registers'),
  request('KVM_SET_REGS', 'vcpu_set_registers', 'its start registers'),
  request('KVM_GET_TSC_KHZ', 'vcpu_tsc_khz', 'the rate of the time stamp counter'),
  request('TCGETS', 'isatty, terminal_raw', 'is the input a terminal'),
  request('BLKGETSIZE64', 'check_disk', 'the size of a block device'),
  request('VHOST_GET_FEATURES', 'vhost_open', 'what the kernel can do', NO_VHOST),
  request('VHOST_SET_OWNER', 'vhost_open', "this process's memory is the guest's", NO_VHOST),
  request('VHOST_SET_MEM_TABLE', 'vhost_open', 'where guest RAM lies', NO_VHOST),
  request('VHOST_SET_VRING_KICK', 'vhost_open', 'doorbells', NO_VHOST),
  request('VHOST_SET_VRING_CALL', 'vhost_open', 'interrupts', NO_VHOST),
];

const register = only('io_uring_register', 1);
const BY_LIBRARY = 'which of the two fstat() makes depends on the version of the C library';

const SETUP_CALLS: readonly Row[] = [
  plain('fstat', 'image_read, check_disk', 'the size of image and disks', BY_LIBRARY),
  only('newfstatat', 3)('AT_EMPTY_PATH', 'image_read, check_disk', 'likewise', BY_LIBRARY),
  plain('pread64', 'image_read, memory_load_file', 'reads the image'),
  fcntl('F_GETFD', 'open_image', 'are the files of the image open'),
  fcntl('F_GETFL', 'check_disk', 'with which rights a disk is open'),
  fcntl('F_OFD_SETLK', 'lock_file', 'one writer per disk'),
  only('close_range', 2)('NO_FLAGS', 'open_image', 'closes what is none of its own'),
  plain('close', 'close_sources, uring_close', 'image and /dev/kvm; an unusable io_uring'),
  {
    call: 'mmap',
    when: [{ argument: 2, without: 'PROT_EXEC' }],
    caller: 'memory_map, cage_create, vcpu_create, uring_create, pthread_create',
    reason: 'guest memory, cages, kvm_run, rings, stacks',
  },
  {
    call: 'mprotect',
    when: [{ argument: 2, without: 'PROT_EXEC' }],
    caller: 'pthread_create',
    reason: 'the guard page of a stack',
  },
  plain('munmap', 'map_aligned', 'trims a mapping to large pages'),
  advice('MADV_DONTFORK', 'memory_map', 'guest memory is for no child'),
  advice('MADV_DONTDUMP', 'memory_map', 'guest memory is for no dump'),
  advice('MADV_NOHUGEPAGE', 'advise_huge', 'small pages'),
  advice('MADV_HUGEPAGE', 'advise_huge', 'large pages'),
  advice('MADV_POPULATE_WRITE', 'populate', 'all of it at once'),
  plain('brk', 'pthread_create', "a thread's variables", 'only where the heap has no room left'),
  plain('eventfd2', 'eventfd', 'doorbells, interrupt lines, news'),
  plain('epoll_create1', 'io_create', 'what the I/O thread waits on'),
  plain('signalfd4', 'watch_signals', 'signals that stop the guest'),
  plain('io_uring_setup', 'uring_create', 'disks with io-engine=io_uring'),
  register('IORING_REGISTER_FILES', 'uring_create', 'the only files it reaches'),
  register('IORING_REGISTER_RESTRICTIONS', 'restrict_ring', 'what it can do at all'),
  register('IORING_REGISTER_ENABLE_RINGS', 'restrict_ring', 'its start, so restricted'),
  plain('rt_sigaction', 'vcpu_create, terminal_raw', 'kicks, the terminal'),
  only('clone', 0)('THREAD_FLAGS', 'pthread_create', 'threads, and nothing but threads'),
  plain('set_robust_list', 'pthread_create', 'part of a new thread'),
  plain('rseq', 'pthread_create', 'part of a new thread'),
  plain('gettid', 'thread_main', 'whom to kick'),
  plain('getpid', 'vcpu_create', 'whom to kick'),
  only('sched_setscheduler', 1)('SCHED_BATCH', 'thread_main', 'the network thread is patient'),
  only('prctl', 0)('PR_SET_NAME', 'thread_main', 'names a thread'),
  only('prlimit64', 0)('THIS_PROCESS', 'confine_limits', 'the last limits before the guest runs'),
  {
    call: 'seccomp',
    when: [
      { argument: 0, is: 'SECCOMP_SET_MODE_FILTER' },
      { argument: 1, is: 'NO_FLAGS' },
    ],
    caller: 'filter_thread',
    reason: "a thread's own filter",
  },
];

const START: Role = {
  name: 'start',
  what: 'the only thread there is before the guest starts; every other filter narrows this one',
  // KVM_RUN comes first: this filter is asked too as long as the guest runs.
  rows: [
    ...unique([...VCPU.rows, ...IO.rows, ...CONSOLE.rows, ...NET.rows]),
    ...SETUP_REQUESTS,
    ...SETUP_CALLS,
  ],
};

/** Rows without those that allow the same again. */
function unique(rows: readonly Row[]): Row[] {
  const key = (row: Row): string => JSON.stringify([row.call, row.when]);
  return [...new Map(rows.map((row) => [key(row), row])).values()];
}

/** By role number (roles.ts). */
export const CELL_ROLES: readonly Role[] = [START, VCPU, IO, CONSOLE, NET];

/** What a running guest's process can call at all: of all threads but the start. */
export const RUNNING_ROLES: readonly Role[] = CELL_ROLES.filter((role) => role !== START);

/**
 * What each of those does beside where a cell records. A recording cell has the very same filters:
 * its threads may make these calls anyway.
 */
export const RECORDING: readonly Row[] = [plain('write', 'write_block', 'the recording')];

/**
 * Calls that are only ever an attack: the process is killed without a word. Where a role's rows
 * allow one of them, the rows count.
 */
export const DEADLY: readonly string[] = [
  ...['execve', 'execveat', 'fork', 'vfork', 'ptrace', 'process_vm_readv', 'process_vm_writev'],
  ...['bpf', 'perf_event_open', 'userfaultfd', 'memfd_create', 'memfd_secret', 'io_uring_setup'],
  ...['init_module', 'finit_module', 'delete_module', 'kexec_load', 'kexec_file_load'],
  ...['mount', 'umount2', 'pivot_root', 'chroot', 'setns', 'unshare', 'open_tree', 'move_mount'],
  ...['fsopen', 'fsmount', 'keyctl', 'add_key', 'request_key', 'open_by_handle_at'],
  ...['pidfd_open', 'pidfd_getfd', 'pidfd_send_signal', 'pkey_mprotect', 'personality'],
  ...['iopl', 'ioperm', 'setuid', 'setgid', 'setresuid', 'setresgid', 'capset'],
];

/** Answered with ENOSYS: its flags lie in memory, and the C library goes on with clone. */
export const UNKNOWN: readonly string[] = ['clone3'];
