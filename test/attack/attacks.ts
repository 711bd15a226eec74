// What an attacker tries who has taken over the cell, and what each layer makes of it when it is
// the only one: the table of docs/attacks.md, and what test/cell-attacks.test.ts runs. The build
// makes build/attacks.h of the names; the code is in attack-*.c.

/**
 * 'OK': done. 'kill': the process is killed at once. 'trap CALL': ended, and the host is told which
 * call it was, on which thread. Otherwise the errno; several with ' or ' between them, where
 * kernels differ. A pair: on a vCPU thread, on the I/O thread.
 */
export type Outcome = string | readonly [vcpu: string, io: string];

/** The layers that are switched on and off, each alone. */
export const LAYERS = ['seccomp', 'landlock', 'namespaces', 'user', 'limits'] as const;
export type Layer = (typeof LAYERS)[number];

export interface Attack {
  name: string;
  tries: string;
  group: 'files' | 'processes' | 'code' | 'rights' | 'kernel' | 'kvm' | 'network' | 'control';
  none: Outcome; // with no layer at all, as root
  stops: Partial<Record<Layer, Outcome>>; // where the layer alone changes that
  all?: Outcome; // where it is not what seccomp alone makes of it
  landlockAbi?: number; // from which Landlock stops it
  ring?: true; // against a disk with io_uring, the restrictions of whose ring are one more layer
  alone?: true; // not beside others: it would be in its own way
  note?: string;
}

const byDescriptor = (call: string): Partial<Record<Layer, Outcome>> => {
  return { seccomp: call, limits: 'EMFILE' };
};
const atPath = { landlock: 'EACCES', namespaces: 'ENOENT' } as const;

export const ATTACKS: readonly Attack[] = [
  {
    name: 'open',
    tries: "read a file that is the user's alone",
    group: 'files',
    none: 'OK',
    stops: { seccomp: 'trap openat', ...atPath, user: 'EACCES', limits: 'EMFILE' },
  },
  {
    name: 'create',
    tries: 'create a file',
    group: 'files',
    none: 'OK',
    stops: { seccomp: 'trap openat', ...atPath, user: 'EACCES', limits: 'EMFILE' },
  },
  {
    name: 'unlink',
    tries: 'remove a file',
    group: 'files',
    none: 'OK',
    stops: { seccomp: 'trap unlink', ...atPath, user: 'EACCES' },
  },
  {
    name: 'truncate',
    tries: 'cut a file off',
    group: 'files',
    none: 'OK',
    stops: { seccomp: 'trap truncate', ...atPath, user: 'EACCES' },
    landlockAbi: 3,
  },
  {
    name: 'chmod',
    tries: "change a file's mode",
    group: 'files',
    none: 'OK',
    stops: { seccomp: 'trap chmod', namespaces: 'ENOENT', user: 'EACCES' },
    note: 'Landlock has no right for it',
  },
  {
    name: 'write_read_only_disk',
    tries: 'write(2) to a disk that was attached read-only',
    group: 'files',
    none: 'EBADF',
    stops: {},
    all: 'EBADF',
    note: 'its descriptor is open for reading only: no layer is needed',
  },
  {
    name: 'pwritev_read_only_disk',
    tries: 'the same with pwritev(2)',
    group: 'files',
    none: 'EBADF',
    stops: { seccomp: ['trap pwritev', 'EBADF'] },
    note: 'likewise',
  },
  {
    name: 'reopen_read_only_disk',
    tries: 'open that disk once more for writing, by /proc/self/fd',
    group: 'files',
    none: 'OK',
    stops: { seccomp: 'trap openat', ...atPath, user: 'EACCES', limits: 'EMFILE' },
  },
  {
    name: 'mount',
    tries: 'mount a file system',
    group: 'files',
    none: 'OK',
    stops: { seccomp: 'kill', landlock: 'EPERM', namespaces: 'ENOENT', user: 'EACCES' },
  },
  {
    name: 'ptrace',
    tries: 'trace another process',
    group: 'processes',
    none: 'OK',
    stops: { seccomp: 'kill', landlock: 'EPERM', namespaces: 'ESRCH', user: 'EPERM' },
    alone: true,
  },
  {
    name: 'process_vm_readv',
    tries: "read the host's memory",
    group: 'processes',
    none: 'OK',
    stops: { seccomp: 'kill', landlock: 'EPERM', namespaces: 'ESRCH', user: 'EPERM' },
  },
  {
    name: 'pidfd_getfd',
    tries: 'take a descriptor out of another process',
    group: 'processes',
    none: 'OK',
    stops: {
      ...{ seccomp: 'kill', landlock: 'EPERM', namespaces: 'ESRCH', user: 'EPERM' },
      limits: 'EMFILE',
    },
  },
  {
    name: 'kill',
    tries: 'signal another process',
    group: 'processes',
    none: 'OK',
    stops: { seccomp: 'trap kill', landlock: 'EPERM', namespaces: 'ESRCH', user: 'EPERM' },
    landlockAbi: 6,
  },
  {
    name: 'tgkill',
    tries: 'the same with tgkill(2), which the I/O thread may use for its own process',
    group: 'processes',
    none: 'OK',
    stops: { seccomp: 'trap tgkill', landlock: 'EPERM', namespaces: 'ESRCH', user: 'EPERM' },
    landlockAbi: 6,
  },
  {
    name: 'execve',
    tries: 'execute a program of the host',
    group: 'code',
    none: 'OK',
    stops: { seccomp: 'kill', ...atPath },
  },
  {
    name: 'memfd_exec',
    tries: 'execute a program of its own out of memory: memfd_create(2), execveat(2)',
    group: 'code',
    none: 'OK',
    stops: byDescriptor('kill'),
  },
  {
    name: 'mprotect_exec',
    tries: 'make memory executable',
    group: 'code',
    none: 'OK',
    stops: { seccomp: 'trap mprotect' },
  },
  {
    name: 'mmap_exec',
    tries: 'map executable memory',
    group: 'code',
    none: 'OK',
    stops: { seccomp: 'trap mmap' },
  },
  {
    name: 'fork',
    tries: 'fork(2)',
    group: 'code',
    none: 'OK',
    stops: { seccomp: 'kill' },
    note: 'the limit of processes counts for nobody who has privileges: EAGAIN with the user',
  },
  {
    name: 'clone',
    tries: 'clone(2) of a process',
    group: 'code',
    none: 'OK',
    stops: { seccomp: 'trap clone' },
    note: 'likewise',
  },
  {
    name: 'clone3',
    tries: 'clone3(2), whose flags no filter can see',
    group: 'code',
    none: 'OK',
    stops: { seccomp: 'ENOSYS' },
    note: 'likewise',
  },
  {
    name: 'setresuid',
    tries: 'become root',
    group: 'rights',
    none: 'OK',
    stops: { seccomp: 'kill', namespaces: 'EINVAL', user: 'EPERM' },
  },
  {
    name: 'raise_limit',
    tries: 'raise a limit',
    group: 'rights',
    none: 'OK or EPERM',
    stops: { seccomp: 'trap prlimit64', namespaces: 'EPERM', user: 'EPERM' },
    note: 'EPERM where root itself lacks CAP_SYS_RESOURCE. The limits lean on the user here',
  },
  {
    name: 'map_memory',
    tries: 'take memory that nobody gave it: 1 GiB',
    group: 'rights',
    none: 'OK',
    stops: { seccomp: 'trap mmap', limits: 'ENOMEM' },
  },
  {
    name: 'unshare',
    tries: 'make a network namespace',
    group: 'rights',
    none: 'OK',
    stops: { seccomp: 'kill', user: 'EPERM' },
    note: 'its own user namespace alone lets it: capabilities count there, until it drops them',
  },
  {
    name: 'user_namespace',
    tries: 'make a user namespace, in which it would have all capabilities',
    group: 'rights',
    none: 'OK',
    stops: { seccomp: 'trap clone', namespaces: 'EPERM', user: 'OK or EPERM or EACCES or ENOSPC' },
    note: 'some hosts let no ordinary user make one',
  },
  {
    name: 'int80',
    tries: 'a call through the 32-bit interface, where calls have other numbers',
    group: 'rights',
    none: 'OK or SIGSEGV',
    stops: { seccomp: 'kill' },
    note: 'SIGSEGV where the kernel has no such interface',
  },
  {
    name: 'x32',
    tries: 'a call through the x32 interface',
    group: 'rights',
    none: 'ENOSYS or OK',
    stops: { seccomp: 'kill' },
    note: 'ENOSYS of a kernel without it, as most are',
  },
  {
    name: 'init_module',
    tries: 'load a kernel module',
    group: 'kernel',
    none: 'ENOEXEC or ENOSYS',
    stops: { seccomp: 'kill', namespaces: 'EPERM or ENOSYS', user: 'EPERM or ENOSYS' },
    note: 'no module: ENOEXEC says that the kernel looked, ENOSYS that it loads none',
  },
  {
    name: 'bpf',
    tries: 'bpf(2): make a map',
    group: 'kernel',
    none: 'OK',
    stops: { ...byDescriptor('kill'), namespaces: 'EPERM', user: 'EPERM' },
  },
  {
    name: 'keyctl',
    tries: "keyctl(2): join a keyring of the kernel's",
    group: 'kernel',
    none: 'OK or ENOSYS',
    stops: { seccomp: 'kill' },
  },
  {
    name: 'perf_event_open',
    tries: 'watch all that a processor does',
    group: 'kernel',
    none: 'OK',
    stops: { ...byDescriptor('kill'), namespaces: 'EACCES', user: 'EACCES' },
  },
  {
    name: 'userfaultfd',
    tries: 'userfaultfd(2), which makes races easy to win',
    group: 'kernel',
    none: 'OK',
    stops: byDescriptor('kill'),
  },
  {
    name: 'io_uring_setup',
    tries: 'make an io_uring without restrictions',
    group: 'kernel',
    none: 'OK',
    stops: byDescriptor('kill'),
  },
  {
    name: 'io_uring_open',
    tries: "open a file by an operation that the cell's own io_uring does not list",
    group: 'kernel',
    none: ['EEXIST or OK', 'OK'],
    stops: {
      seccomp: ['trap io_uring_enter', 'OK'],
      landlock: ['EEXIST or EACCES', 'EACCES'],
      namespaces: ['EEXIST or ENOENT', 'ENOENT'],
      user: ['EEXIST or EACCES', 'EACCES'],
      limits: ['EEXIST or EMFILE', 'EMFILE'],
    },
    all: ['trap io_uring_enter', 'EACCES'],
    ring: true,
    note: "EEXIST: the ring takes entries of one thread only. The ring's own restrictions: EACCES",
  },
  {
    name: 'kvm_create_vm',
    tries: 'make another machine, with a /dev/kvm that was left open for it',
    group: 'kvm',
    none: 'OK',
    stops: byDescriptor('trap ioctl'),
  },
  {
    name: 'kvm_memory',
    tries: "give the guest memory of the cell's",
    group: 'kvm',
    none: 'OK',
    stops: { seccomp: 'trap ioctl' },
  },
  {
    name: 'ioctl',
    tries: 'an ioctl that is not on the list',
    group: 'kvm',
    none: 'OK',
    stops: { seccomp: 'trap ioctl' },
  },
  {
    name: 'tcp_connect',
    tries: 'connect by TCP',
    group: 'network',
    none: 'OK',
    stops: { ...byDescriptor('trap socket'), landlock: 'EACCES', namespaces: 'ENETUNREACH' },
    landlockAbi: 4,
  },
  {
    name: 'tcp_bind',
    tries: 'offer a TCP port',
    group: 'network',
    none: 'OK',
    stops: { ...byDescriptor('trap socket'), landlock: 'EACCES' },
    landlockAbi: 4,
    note: 'in a network namespace nobody is there to connect',
  },
  {
    name: 'udp_send',
    tries: 'send a datagram',
    group: 'network',
    none: 'OK',
    stops: { ...byDescriptor('trap socket'), namespaces: 'ENETUNREACH' },
    note: 'Landlock has no right for it',
  },
  {
    name: 'unix_socket',
    tries: "connect to a Unix socket of the user's, by path",
    group: 'network',
    none: 'OK',
    stops: { ...byDescriptor('trap socket'), namespaces: 'ENOENT', user: 'EACCES' },
    note: 'Landlock has no right for it',
  },
  {
    name: 'abstract_socket',
    tries: 'connect to an abstract Unix socket',
    group: 'network',
    none: 'OK',
    stops: { ...byDescriptor('trap socket'), landlock: 'EPERM', namespaces: 'ECONNREFUSED' },
    landlockAbi: 6,
  },
  {
    name: 'send_descriptor',
    tries: 'push a descriptor into the host over the control socket (`SCM_RIGHTS`)',
    group: 'control',
    none: 'OK',
    stops: { seccomp: 'trap sendmsg' },
    note: 'sent is not taken: the host reads with read(2), which drops it',
  },
  {
    name: 'take_descriptor',
    tries: 'take a descriptor that somebody sends over the control socket',
    group: 'control',
    none: 'OK',
    stops: byDescriptor('trap recvmsg'),
    note: 'the host sends none',
  },
];

/** What a cell needs, and an attacker in it has: nothing stops it. docs/compromised-cell.md. */
export const LEFT: readonly { name: string; outcome: Outcome }[] = [
  { name: 'write_own_disk', outcome: 'OK' },
  { name: 'read_own_disk', outcome: ['trap preadv', 'OK'] },
  { name: 'grow_own_disk', outcome: ['trap pwritev', 'OK'] },
  { name: 'lie', outcome: 'OK' },
  { name: 'burn', outcome: 'OK' },
];

/** By number, as guest and host ask for them. */
export const ATTACK_NAMES: readonly string[] = [...ATTACKS, ...LEFT].map(({ name }) => name);

/** With nothing, one layer alone, or all of them. */
export type Column = 'none' | Layer | 'all';
export const COLUMNS: readonly Column[] = ['none', ...LAYERS, 'all'];

/** What the table promises. `landlockAbi`: of the kernel in question. */
export function expected(attack: Attack, column: Column, landlockAbi: number): Outcome {
  const { none, stops, all } = attack;
  if (column === 'none') return none;
  if (column === 'all') return all ?? stops.seccomp ?? none;
  if (column === 'landlock' && landlockAbi < (attack.landlockAbi ?? 1)) return none;
  return stops[column] ?? none;
}

export const outcomeOn = (outcome: Outcome, thread: 'vcpu' | 'io'): string => {
  return typeof outcome === 'string' ? outcome : outcome[thread === 'vcpu' ? 0 : 1];
};
