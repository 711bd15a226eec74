// What each thread of a cell may ask of the kernel: the reviewed tables behind its seccomp filters.
// The build compiles them (bpf.ts, tools/build-filters.ts) into the cell, and `--explain-sandbox`
// prints them: there is no second list.
//
// A row allows one call, where it has conditions only with arguments that meet all of them; several
// rows for one call are alternatives. `caller` is the function that makes it. A row that ordinary
// runs do not use says in `keep` why it stays: test/boot-syscalls.test.ts fails for any other row
// that no traced run used. Not listed is not allowed.
import type { ROLE_NAMES } from './roles.ts';

/** Numbers of C headers; tools/build-filters.ts has the compiler compare them. */
export const NUMBERS = {
  // linux/kvm.h
  KVM_GET_API_VERSION: 0xae00,
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
  // asm-generic/ioctls.h, linux/fs.h
  TCGETS: 0x5401,
  TCSETS: 0x5402,
  TIOCGPGRP: 0x540f,
  BLKGETSIZE64: 0x80081272,
  // linux/futex.h
  FUTEX_WAIT_PRIVATE: 128,
  FUTEX_WAKE_PRIVATE: 129,
  // linux/mman.h, linux/sched.h, linux/prctl.h, linux/seccomp.h, fcntl.h
  PROT_EXEC: 4,
  THREAD_FLAGS: 0x3d0f00, // of pthread_create(): a thread of this process and nothing else
  PR_SET_NAME: 15,
  SECCOMP_SET_MODE_FILTER: 1,
  F_GETFD: 1,
  F_GETFL: 3,
  F_OFD_SETLK: 37,
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

const request = (name: NumberName, caller: string, reason: string, keep?: string): Row => {
  return { call: 'ioctl', when: [{ argument: 1, is: name }], caller, reason, keep };
};

const futex = (name: NumberName, caller: string, reason: string, keep?: string): Row => {
  return { call: 'futex', when: [{ argument: 1, is: name }], caller, reason, keep };
};

// --- What all threads share ---------------------------------------------------------------------

const LOCKS: readonly Row[] = [
  futex('FUTEX_WAIT_PRIVATE', 'pthread_mutex_lock, futex_wait', "a device's lock; standing still"),
  futex('FUTEX_WAKE_PRIVATE', 'pthread_mutex_unlock, futex_wake', 'the other side of it'),
];
const EXIT: Row = {
  call: 'exit_group',
  caller: '_exit',
  reason: 'the end of the cell, also after a forbidden call',
};
const RESTORE: readonly Row[] = [
  request(
    'TCSETS',
    'terminal_restore',
    "gives the user's terminal back",
    'only where the input is a terminal',
  ),
  {
    call: 'rt_sigprocmask',
    caller: 'set_attributes',
    reason: 'giving a terminal back must not stop the process',
    keep: 'only where the input is a terminal',
  },
];
const CLOCK: Row = {
  call: 'clock_gettime',
  caller: 'tell_time, monotonic_ns',
  reason: 'the time of an RTC access, a trap or a marker',
  keep: "a system call only where the host's clock source cannot be read from user space",
};
const SIGNAL_RETURN: Row = {
  call: 'rt_sigreturn',
  caller: 'the end of a signal handler',
  reason: 'a kick out of KVM_RUN, a fault',
};

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
    {
      call: 'write',
      caller: 'machine_wake, device_interrupt',
      reason: 'eventfds: news, interrupts',
    },
    { ...SIGNAL_RETURN, caller: 'on_kick' },
    CLOCK,
    ...RESTORE,
    EXIT,
  ],
};

const DISK = 'a guest with a disk that is written';

const IO: Role = {
  name: 'io',
  what: 'the first thread: doorbells, disks, console input, commands of the host',
  rows: [
    { call: 'epoll_wait', caller: 'io_run', reason: 'waits for whatever comes next' },
    { call: 'epoll_ctl', caller: 'watch_input', reason: 'looks at the input while it is wanted' },
    {
      call: 'read',
      caller: 'drain_counter, take_signal, console_read, control_receive',
      reason: 'doorbells, signals, what is typed, commands',
    },
    {
      call: 'write',
      caller: 'device_interrupt, machine_wake, say, print_line',
      reason: 'interrupts, news, messages to the host',
    },
    {
      call: 'poll',
      caller: 'console_read, say, server_drain',
      reason: 'is there input; room for the last word; short pauses',
    },
    { call: 'preadv', caller: 'transfer', reason: 'reads a disk into guest memory' },
    { call: 'pwritev', caller: 'transfer, write_zeros_slowly', reason: DISK },
    { call: 'fdatasync', caller: 'sync_data', reason: 'the guest flushes its disk' },
    { call: 'fallocate', caller: 'allocate', reason: 'the guest discards or zeroes a range' },
    { call: 'io_uring_enter', caller: 'enter', reason: 'disks with io-engine=io_uring' },
    { call: 'getrandom', caller: 'entropy_execute', reason: 'randomness for the guest' },
    {
      call: 'tgkill',
      when: [{ argument: 0, isOwnProcess: true }],
      caller: 'vcpu_kick',
      reason: 'kicks a vCPU of this process out of KVM_RUN',
    },
    ...LOCKS,
    {
      call: 'restart_syscall',
      caller: 'the kernel',
      reason: 'a wait goes on after the job was stopped and continued',
      keep: 'only after SIGSTOP in the middle of a poll',
    },
    CLOCK,
    request(
      'TIOCGPGRP',
      'on_continue',
      "whose terminal it is after a stopped job's SIGCONT",
      'only in a cell started by hand on a terminal',
    ),
    { ...SIGNAL_RETURN, keep: 'only after SIGCONT on a terminal, or a fault' },
    ...RESTORE,
    EXIT,
  ],
};

const CONSOLE: Role = {
  name: 'console',
  what: "writes the guest's console output, so that a reader who is slow keeps nobody else waiting",
  rows: [
    { call: 'write', caller: 'write_some', reason: 'console output' },
    {
      call: 'poll',
      caller: 'write_some',
      reason: 'waits for a reader',
      keep: 'only where somebody else made the output non-blocking',
    },
    ...LOCKS,
    {
      call: 'restart_syscall',
      caller: 'the kernel',
      reason: 'a wait goes on after the job was stopped and continued',
      keep: 'only after SIGSTOP in the middle of a wait',
    },
    { ...CLOCK, caller: 'monotonic_ns' },
    ...RESTORE.map((row) => ({ ...row, keep: 'only after a forbidden call on a terminal' })),
    { ...EXIT, keep: 'only after a forbidden call' },
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
  request('BLKGETSIZE64', 'check_disk', 'the size of a disk', 'only for block devices'),
];

const SETUP_CALLS: readonly Row[] = [
  {
    call: 'fstat',
    caller: 'image_read, check_disk',
    reason: 'the size of the image and its disks',
  },
  { call: 'newfstatat', caller: 'fstat', reason: 'the same under the name the C library uses' },
  { call: 'pread64', caller: 'image_read, memory_load_file', reason: 'reads the image' },
  {
    call: 'fcntl',
    when: [{ argument: 1, is: 'F_GETFD' }],
    caller: 'open_image',
    reason: 'are the files of the image open',
  },
  {
    call: 'fcntl',
    when: [{ argument: 1, is: 'F_GETFL' }],
    caller: 'check_disk',
    reason: 'with which rights a disk is open',
  },
  {
    call: 'fcntl',
    when: [{ argument: 1, is: 'F_OFD_SETLK' }],
    caller: 'lock_file',
    reason: 'one writer per disk',
  },
  { call: 'close_range', caller: 'open_image', reason: 'closes what is none of its own' },
  { call: 'close', caller: 'uring_close', reason: 'an io_uring that cannot be used', keep: 'rare' },
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
  { call: 'munmap', caller: 'map_aligned', reason: 'trims a mapping to large pages' },
  { call: 'madvise', caller: 'memory_map', reason: 'large pages, no dump of guest memory' },
  { call: 'brk', caller: 'calloc of pthread_create', reason: "threads' own variables" },
  { call: 'eventfd2', caller: 'eventfd', reason: 'doorbells, interrupt lines, news' },
  { call: 'epoll_create1', caller: 'io_create', reason: 'what the I/O thread waits on' },
  { call: 'signalfd4', caller: 'watch_signals', reason: 'signals that stop the guest' },
  { call: 'io_uring_setup', caller: 'uring_create', reason: 'disks with io-engine=io_uring' },
  { call: 'io_uring_register', caller: 'uring_create', reason: 'its files and its restrictions' },
  { call: 'rt_sigaction', caller: 'vcpu_create, terminal_raw', reason: 'kicks, the terminal' },
  {
    call: 'clone',
    when: [{ argument: 0, is: 'THREAD_FLAGS' }],
    caller: 'pthread_create',
    reason: 'threads, and nothing but threads',
  },
  { call: 'set_robust_list', caller: 'pthread_create', reason: 'part of a new thread' },
  { call: 'rseq', caller: 'pthread_create', reason: 'part of a new thread' },
  { call: 'gettid', caller: 'thread_main', reason: 'whom to kick' },
  { call: 'getpid', caller: 'vcpu_create', reason: 'whom to kick' },
  {
    call: 'prctl',
    when: [{ argument: 0, is: 'PR_SET_NAME' }],
    caller: 'thread_main',
    reason: 'names a thread',
  },
  { call: 'prlimit64', caller: 'confine_limits', reason: 'the last limits, before the guest runs' },
  {
    call: 'seccomp',
    when: [{ argument: 0, is: 'SECCOMP_SET_MODE_FILTER' }],
    caller: 'confine_thread',
    reason: "a thread's own filter",
  },
];

const START: Role = {
  name: 'start',
  what: 'the only thread there is before the guest starts; every other filter narrows this one',
  // KVM_RUN comes first: this filter is asked too as long as the guest runs.
  rows: [...unique([...VCPU.rows, ...IO.rows, ...CONSOLE.rows]), ...SETUP_REQUESTS, ...SETUP_CALLS],
};

/** Rows without those that allow the same again. */
function unique(rows: readonly Row[]): Row[] {
  const key = (row: Row): string => JSON.stringify([row.call, row.when]);
  return [...new Map(rows.map((row) => [key(row), row])).values()];
}

/** By role number (roles.ts). */
export const CELL_ROLES: readonly Role[] = [START, VCPU, IO, CONSOLE];

/** What a running guest's process can call at all: of all threads but the start. */
export const RUNNING_ROLES: readonly Role[] = CELL_ROLES.filter((role) => role !== START);

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
