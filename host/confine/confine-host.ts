// Faraday's own process gives up what a run does not need: before it reads a byte of a kernel or a
// disk, and once more when the cell is started. Covers the thread that does all the work and every
// thread and process that is started later. V8's own workers are there before and keep their
// rights: they compile and collect garbage, and read no file.

import { existsSync } from 'node:fs';
import type { RunConfig } from '../config.ts';
import { FaradayError } from '../errors.ts';
import { explainLandlock } from '../explain.ts';
import { makeFolder } from '../kernel/folders.ts';
import type { Log } from '../log.ts';
import { shim } from '../shim.ts';
import { hostFacts } from './host-facts.ts';
import { accessText, type HostPath, hostPaths } from './host-paths.ts';
import { describeLandlock, LANDLOCK_OFF, type LandlockState, landlockState } from './landlock.ts';

/** `confinement.host` of a run report; docs/cli.md describes it. */
export interface HostConfinement {
  landlock: LandlockState;
  paths: { path: string; access: string; reason: string; until: HostPath['until'] }[];
  noNewPrivs: boolean;
  capabilities: string[] | null; // those kept while the guest runs; null: nothing was taken away
}

/** Capabilities by number (linux/capability.h) that a root may go on needing. */
const CAPABILITIES = {
  CAP_DAC_OVERRIDE: 1,
  CAP_DAC_READ_SEARCH: 2,
  CAP_FOWNER: 3,
  CAP_KILL: 5,
} as const;

type Capability = keyof typeof CAPABILITIES;

/** What root keeps, and why. */
export function keptCapabilities(config: RunConfig): readonly (readonly [Capability, string])[] {
  const cell = config.engine === 'cell';
  const writes = config.report !== undefined || (config.record !== undefined && !cell);
  return [
    ...(cell ? [['CAP_KILL', 'to end the cell, which is another user'] as const] : []),
    ...(writes || !cell
      ? [['CAP_DAC_OVERRIDE', "files of other users: the report's folder"] as const]
      : []),
    ...(cell ? [] : [['CAP_DAC_READ_SEARCH', 'files of other users, to be opened yet'] as const]),
    ...(writes ? [['CAP_FOWNER', 'to replace a report that is not its own'] as const] : []),
  ];
}

const paths = (list: readonly HostPath[]): string[] => list.map(({ path }) => path);
const rights = (list: readonly HostPath[]): number[] => list.map((one) => one.rights);

/** Enters the first domain; what came of it. */
function enter(config: RunConfig, list: readonly HostPath[]): LandlockState {
  const { landlock } = config.confine;
  if (landlock === 'off') return LANDLOCK_OFF;
  const cell = config.engine === 'cell';
  const { abi, errno } = shim().enterLandlock(paths(list), rights(list), cell);
  const state = landlockState(abi, errno || null);
  if (landlock !== 'required' || state.state === 'full') return state;
  throw explainLandlock(state);
}

/** The cache must be there before a rule can name it. Where it cannot be made, its user says so. */
function makeCache({ kernel }: RunConfig, cacheFolder: string): void {
  try {
    if (!existsSync(cacheFolder) && existsSync(kernel)) makeFolder(cacheFolder);
  } catch {
    // See above.
  }
}

/** The rights of this process during one run. */
export class HostGuard {
  readonly confinement: HostConfinement;
  private readonly late: readonly HostPath[];
  private readonly keep: readonly Capability[] | null;

  /** Gives up all that the start of a run does not need. Throws where that was required. */
  constructor(config: RunConfig, log: Log) {
    const facts = hostFacts(config);
    if (facts.storedKernel === null) makeCache(config, facts.cacheFolder);
    const list = hostPaths(config, facts);
    shim().setNoNewPrivs();
    const landlock = enter(config, list);
    const root = process.geteuid?.() === 0;
    this.keep = root ? keptCapabilities(config).map(([name]) => name) : null;
    this.late = list.filter(({ until }) => until === 'end');
    this.confinement = {
      landlock,
      paths: list.map(({ rights, ...rest }) => ({ ...rest, access: accessText(rights) })),
      noNewPrivs: true,
      capabilities: this.keep && [...this.keep],
    };
    if (config.engine === 'v8') this.dropCapabilities();
    log('info', `Faraday itself: ${describeHost(this.confinement)}`);
  }

  /** To be called once the cell is started: nothing more has to be opened for it. */
  started(): void {
    const { landlock } = this.confinement;
    if (landlock.abi > 0) {
      const errno = shim().narrowLandlock(paths(this.late), rights(this.late));
      if (errno) throw new FaradayError('internal', `Landlock failed (${errno}); please report it`);
    }
    this.dropCapabilities();
  }

  private dropCapabilities(): void {
    if (!this.keep) return;
    shim().dropCapabilities(this.keep.reduce((bits, name) => bits | (1 << CAPABILITIES[name]), 0));
  }
}

/** Every layer in one line, for the log. */
export function describeHost({ landlock, paths, capabilities }: HostConfinement): string {
  const what = describeLandlock(landlock);
  const kept = capabilities?.map((name) => name.toLowerCase()).join(', ') || 'none';
  return [
    `Landlock ${what}${landlock.abi > 0 ? `, ${paths.length} paths` : ''}`,
    'no_new_privs',
    ...(capabilities ? [`capabilities kept: ${kept}`] : []),
  ].join('; ');
}
