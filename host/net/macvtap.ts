// Opening a macvtap: the character device of an interface that was made on top of another one.
import type { FaradayError } from '../errors.ts';
import {
  errnoOf,
  IFF_MULTI_QUEUE,
  interfaceIndex,
  setTunInterface,
  tunInterface,
} from './ioctl.ts';
import {
  hostError,
  type OpenInterface,
  openDevice,
  openEach,
  prepareTap,
  TAP_FLAGS,
} from './tap.ts';

function explain(name: string, path: string, errno: string): string | undefined {
  const macvtap = `--net tap '${name}'`;
  if (errno === 'ENOENT' || errno === 'ENODEV' || errno === 'ENXIO') {
    return `${macvtap} is no macvtap: it has no ${path}; 'ip link add ... type macvtap' makes one`;
  }
  if (errno === 'EACCES' || errno === 'EPERM') {
    return `${macvtap} may not be opened by this user; 'chown USER ${path}' allows it`;
  }
  if (errno === 'EBUSY') return `${macvtap} has no queue left; use fewer queues=`;
  return undefined;
}

/** The character device of a macvtap; '/dev/tapN' where there is no such interface. */
export function macvtapPath(name: string): string {
  return `/dev/tap${interfaceIndex(name) ?? 'N'}`;
}

function deviceOf(name: string): string {
  if (interfaceIndex(name) !== undefined) return macvtapPath(name);
  const fix = `'ip link add link INTERFACE name ${name} type macvtap' makes it`;
  throw hostError(`--net tap '${name}' does not exist; as root, ${fix}`);
}

/** /dev has no network namespaces: the device of this number may be another one's. */
function setUp(fd: number, name: string, path: string, flags: number): void {
  const refused = (finding: string): FaradayError => hostError(`--net tap '${name}': ${finding}`);
  let found: string;
  try {
    setTunInterface(fd, name, flags);
    prepareTap(fd);
    found = tunInterface(fd).name;
  } catch (error) {
    throw refused(`${path} is no macvtap (${errnoOf(error)})`);
  }
  if (found === name) return;
  throw refused(`${path} is that of ${found}, elsewhere; pass the right one on as fd=N`);
}

/** Opens the macvtap of this name once for each queue, all or none. */
export function openMacvtap(name: string, queues: number): OpenInterface {
  const path = deviceOf(name);
  const flags = TAP_FLAGS | (queues > 1 ? IFF_MULTI_QUEUE : 0);
  const open = (): number => openDevice(path, (errno) => explain(name, path, errno));
  return { name, fds: openEach(queues, open, (fd) => setUp(fd, name, path, flags)) };
}
