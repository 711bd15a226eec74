// Which paths Faraday's own process needs for a run, and why: the rules of its Landlock domain, and
// what `--explain-sandbox` prints of them. A pure function of the configuration and of a few facts
// about this machine (host-facts.ts).

import type { RunConfig } from '../config.ts';
import type { Access } from '../confine-config.ts';
import { PATH_CHANGE, PATH_DEVICE, PATH_EXECUTE, PATH_READ, PATH_WRITE } from '../shim.ts';

export interface HostPath {
  path: string;
  rights: number; // PATH_*
  reason: string;
  until: 'start' | 'end'; // given up once the guest runs, or kept
}

/** What of this machine decides which paths a run needs. */
export interface HostFacts {
  programFolder: string; // build/
  storedKernel: string | null; // the folder of a kernel that was named, not given by path
  kernelConfigs: readonly string[]; // files beside a kernel given by path
  cacheFolder: string;
  moduleFolders: readonly string[]; // where modules for the root disk may be
  toolFolders: readonly string[]; // the programs that unpack a kernel, and their libraries
  toolFiles: readonly string[];
  temporaryFolder: string;
  blockSizes: readonly string[]; // where sysfs has the size of a disk that is a block device
  reportPlace: OutputPlace | null;
  recordPlace: OutputPlace | null;
}

/** What is to be written: a file in a folder, or what is there already, such as a pipe. */
export interface OutputPlace {
  path: string;
  isFolder: boolean;
}

const READ_WRITE = PATH_READ | PATH_WRITE;
const ALL = READ_WRITE | PATH_CHANGE;

const LETTERS: readonly (readonly [number, string])[] = [
  [PATH_READ, 'r'],
  [PATH_WRITE, 'w'],
  [PATH_CHANGE, 'c'],
  [PATH_EXECUTE, 'x'],
  [PATH_DEVICE, 'd'],
];

/** 'rw', 'rx': what is allowed with a path. */
export function accessText(rights: number): string {
  return LETTERS.filter(([bit]) => rights & bit)
    .map(([, letter]) => letter)
    .join('');
}

const RULE_RIGHTS: Record<Access, number> = {
  r: PATH_READ,
  w: PATH_WRITE | PATH_CHANGE,
  rw: ALL | PATH_DEVICE,
};

const early = (path: string, rights: number, reason: string): HostPath => {
  return { path, rights, reason, until: 'start' };
};
const late = (path: string, rights: number, reason: string): HostPath => {
  return { path, rights, reason, until: 'end' };
};

function kernelPaths(config: RunConfig, facts: HostFacts): HostPath[] {
  if (facts.storedKernel !== null) return [early(facts.storedKernel, PATH_READ, 'stored kernel')];
  return [
    early(config.kernel, PATH_READ, 'kernel'),
    ...facts.kernelConfigs.map((path) => early(path, PATH_READ, "the kernel's configuration")),
    early(facts.cacheFolder, ALL, 'kernels that were unpacked'),
    ...facts.moduleFolders.map((path) => early(path, PATH_READ, "the kernel's modules")),
    ...facts.toolFolders.map((path) => {
      return early(path, PATH_READ | PATH_EXECUTE, 'programs that unpack a kernel');
    }),
    ...facts.toolFiles.map((path) => early(path, PATH_READ, 'their libraries')),
  ];
}

function diskPaths({ disks }: RunConfig, { blockSizes }: HostFacts): HostPath[] {
  return [
    ...disks.map(({ path, readOnly, id }) => {
      const rights = (readOnly ? PATH_READ : READ_WRITE) | PATH_DEVICE;
      return early(path, rights, `disk ${id}`);
    }),
    ...blockSizes.map((path) => early(path, PATH_READ, 'the size of a block device')),
  ];
}

function outputPath(place: OutputPlace | null, reason: string, how = late): HostPath[] {
  if (place === null) return [];
  return [how(place.path, PATH_WRITE | (place.isFolder ? PATH_CHANGE : 0), reason)];
}

/** Every path of a run, with what is allowed with it and with all below it. */
export function hostPaths(config: RunConfig, facts: HostFacts): HostPath[] {
  const cell = config.engine === 'cell';
  return [
    ...kernelPaths(config, facts),
    ...(config.initrd === undefined ? [] : [early(config.initrd, PATH_READ, 'initrd')]),
    ...diskPaths(config, facts),
    early('/dev/kvm', READ_WRITE | PATH_DEVICE, 'virtualization'),
    early(facts.programFolder, PATH_READ, "Faraday's own modules and programs"),
    ...(cell ? [early('/dev/shm', READ_WRITE, 'the machine image, in a file without a name')] : []),
    ...(cell ? [early(facts.temporaryFolder, ALL, 'the same where that has no room')] : []),
    early('/dev/null', READ_WRITE, 'standard input or output of what is started'),
    ...outputPath(facts.reportPlace, 'the report'),
    ...outputPath(facts.recordPlace, 'the recording', cell ? early : late),
    ...config.confine.pathRules.map(({ path, access }) => {
      return late(path, RULE_RIGHTS[access], 'named by a flag');
    }),
  ];
}
