// `faraday run --explain-sandbox`: the whole policy of a run as data. Taken from the tables that
// the run itself uses, so that there is no second list; starts nothing and needs neither KVM nor a
// kernel that is there. explain-text.ts makes text of it.

import type { RunConfig } from '../config.ts';
import * as protocol from '../engine/cell-protocol.ts';
import { macvtapPath } from '../net/macvtap.ts';
import type { NetRequest } from '../net-config.ts';
import { formatSize } from '../size.ts';
import {
  CELL_ROLES,
  type Condition,
  DEADLY,
  RECORDING,
  type Row,
  RUNNING_ROLES,
  UNKNOWN,
} from './cell-policy.ts';
import { keptCapabilities } from './confine-host.ts';
import { NAMESPACE_NAMES } from './confined.ts';
import { hostFacts } from './host-facts.ts';
import { accessText, hostPaths } from './host-paths.ts';
import { LANDLOCK_ABIS } from './landlock.ts';

interface ExplainedCall {
  call: string; // with its conditions: 'ioctl(_, KVM_RUN)'
  caller: string;
  reason: string;
  only: string | null; // where ordinary runs do not make it
}

interface ExplainedThread {
  name: string;
  what: string;
  calls: ExplainedCall[];
}

interface Descriptor {
  number: string;
  what: string;
  until: 'start' | 'end';
}

interface CellSandbox {
  descriptors: Descriptor[];
  user: string;
  namespaces: { mode: string; own: readonly string[]; root: string };
  capabilities: string;
  landlock: { mode: string; takes: string[] };
  limits: { what: string; limit: string }[];
  seccomp: {
    mode: string;
    otherwise: string;
    threads: ExplainedThread[];
    deadly: readonly string[];
    unknown: readonly string[];
  };
}

export interface Sandbox {
  engine: string;
  off: string[]; // flags that take something away from this policy
  host: {
    landlock: { mode: string; takes: string[] };
    paths: { path: string; access: string; reason: string; until: 'start' | 'end' }[];
    before: { path: string; reason: string }[]; // opened before all of this is given up
    capabilities: { name: string; reason: string }[]; // those that root keeps
    threads: string[];
  };
  cell: CellSandbox | null; // engine v8 has none
}

const TAKES = LANDLOCK_ABIS.map(({ what, linux }) => `${what} (Linux ${linux})`);

// --- Faraday itself -----------------------------------------------------------------------------

/** What host/net/ opens of the host. */
function netPaths({
  id,
  backend,
  source,
  queuePairs,
}: NetRequest): { path: string; reason: string }[] {
  const times = queuePairs > 1 ? `, ${queuePairs} times` : '';
  const reason = `network ${id}${times}`;
  if ('passt' in source) return [{ path: 'passt', reason: `${reason}: a program of its own` }];
  const vhost = backend === 'vhost-net' ? [{ path: '/dev/vhost-net', reason }] : [];
  if ('fds' in source) return vhost;
  const path = backend === 'macvtap' ? macvtapPath(source.tap) : '/dev/net/tun';
  return [{ path, reason: `${reason}: ${source.tap}` }, ...vhost];
}

function explainHost(config: RunConfig, kernelGiven: boolean): Sandbox['host'] {
  const all = hostPaths(config, hostFacts(config));
  const paths = all.filter(({ reason }) => kernelGiven || reason !== 'kernel');
  return {
    landlock: { mode: config.confine.landlock, takes: TAKES },
    paths: paths.map(({ path, rights, reason, until }) => {
      return { path, access: accessText(rights), reason, until };
    }),
    before: config.nets.flatMap(netPaths),
    capabilities: keptCapabilities(config).map(([name, reason]) => ({ name, reason })),
    threads: [
      "bound: the thread that does all the work, Node's pool threads, programs that unpack kernels",
      "not bound: V8's helper threads, which are there before and read no file",
      ...(config.engine === 'cell'
        ? ['bound once the cell is started: the thread that starts it']
        : []),
    ],
  };
}

// --- The cell -----------------------------------------------------------------------------------

/** What of a network is handed to the cell. */
function netDescriptors({ id, backend, source, queuePairs }: NetRequest): Descriptor[] {
  const many = queuePairs > 1 ? `, ${queuePairs} queues` : '';
  const interfaceOf = 'tap' in source ? source.tap : 'a tap that was passed on';
  const what = 'passt' in source ? 'socket to passt' : `${interfaceOf}${many}`;
  const vhost = backend === 'vhost-net' ? [`/dev/vhost-net${many}, for network ${id}`] : [];
  return [`network ${id}: ${what}`, ...vhost].map((text): Descriptor => {
    return { number: 'then', what: text, until: 'end' };
  });
}

function descriptors({ disks, nets, initrd, hasRoot, record }: RunConfig): Descriptor[] {
  const standard = ['input', 'output', 'error'].map((name, number): Descriptor => {
    return { number: String(number), what: `standard ${name}`, until: 'end' };
  });
  const some = initrd !== undefined ? 'kernel and initrd' : hasRoot ? 'kernel, its initramfs' : '';
  return [
    ...standard,
    { number: String(protocol.FD_CONTROL), what: 'socket to its host', until: 'end' },
    { number: String(protocol.FD_IMAGE), what: 'machine image, read', until: 'start' },
    { number: String(protocol.FD_KVM), what: '/dev/kvm', until: 'start' },
    { number: `${protocol.FD_FILES} on`, what: `${some || 'kernel'}, read`, until: 'start' },
    ...disks.map(({ id, path, readOnly }): Descriptor => {
      const rights = readOnly ? 'read' : 'read and write';
      return { number: 'then', what: `disk ${id}, ${rights}: ${path}`, until: 'end' };
    }),
    ...nets.flatMap(netDescriptors),
    ...(record === undefined
      ? []
      : [{ number: 'then', what: `the recording, write: ${record}`, until: 'end' } as const]),
    { number: 'made', what: 'the machine, its vCPUs, eventfds, epoll, signalfd', until: 'end' },
    ...(disks.some(({ ioUring }) => ioUring)
      ? [
          {
            number: 'made',
            what: 'io_uring: three operations, on its disks',
            until: 'end',
          } as const,
        ]
      : []),
  ];
}

/** 'ioctl(_, KVM_RUN)'. */
function callText({ call, when = [] }: Row): string {
  const last = Math.max(-1, ...when.map(({ argument }) => argument));
  const text = (condition: Condition | undefined): string => {
    if (!condition) return '_';
    if ('is' in condition) return condition.is;
    return 'without' in condition ? `no ${condition.without}` : 'this process';
  };
  const all = Array.from({ length: last + 1 }, (_, at) => {
    return text(when.find(({ argument }) => argument === at));
  });
  return last < 0 ? call : `${call}(${all.join(', ')})`;
}

function explainThreads({ record }: RunConfig): ExplainedThread[] {
  return CELL_ROLES.map((role) => {
    const recorded = record !== undefined && RUNNING_ROLES.includes(role);
    const calls = [...role.rows, ...(recorded ? RECORDING : [])].map((row) => {
      const { caller, reason, keep = null } = row;
      return { call: callText(row), caller, reason, only: keep };
    });
    return { name: role.name, what: role.what, calls };
  });
}

const OTHERWISE = {
  enforce: 'the cell is ended before the call is carried out, exit code 5',
  log: "it is carried out, and written to the kernel's log",
  off: 'no filter at all',
};

function limits({ disks, memoryBytes }: RunConfig): CellSandbox['limits'] {
  const ring = disks.some(({ ioUring }) => ioUring);
  return [
    { what: 'new descriptors', limit: 'none' },
    { what: 'new processes', limit: ring ? "io_uring's own threads" : 'none' },
    { what: 'memory', limit: `${formatSize(memoryBytes)} of guest memory and what the cell needs` },
    { what: 'locked memory', limit: 'none' },
    { what: 'core dumps', limit: 'none' },
  ];
}

function userText({ confine: { user } }: RunConfig): string {
  if (user) return `${user.user}:${user.group}`;
  return 'as root: a number that no account has, another for each cell; else the own';
}

function explainCell(config: RunConfig): CellSandbox {
  const { seccomp, landlock, namespaces } = config.confine;
  return {
    descriptors: descriptors(config),
    user: userText(config),
    namespaces: { mode: namespaces, own: NAMESPACE_NAMES, root: 'empty, and nothing can be added' },
    capabilities: 'none, in any set; no_new_privs; not dumpable',
    landlock: { mode: landlock, takes: TAKES },
    limits: limits(config),
    seccomp: {
      mode: seccomp,
      otherwise: OTHERWISE[seccomp],
      threads: explainThreads(config),
      deadly: DEADLY,
      unknown: UNKNOWN,
    },
  };
}

function flagsOff({ engine, confine }: RunConfig): string[] {
  return [
    ...(engine === 'v8' ? ['--engine v8: guest, devices and Faraday are one process'] : []),
    ...(confine.seccomp === 'enforce' ? [] : [`--seccomp ${confine.seccomp}`]),
    ...(confine.landlock === 'off' ? ['--landlock off'] : []),
    ...(confine.namespaces === 'off' ? ['--namespaces off'] : []),
    ...confine.pathRules.map(({ path, access }) => `${path} (${access}) is open to Faraday itself`),
  ];
}

/** The policy of a run. `kernelGiven`: the kernel is not made up for a command line without. */
export function explainSandbox(config: RunConfig, kernelGiven: boolean): Sandbox {
  return {
    engine: config.engine,
    off: flagsOff(config),
    host: explainHost(config, kernelGiven),
    cell: config.engine === 'cell' ? explainCell(config) : null,
  };
}
