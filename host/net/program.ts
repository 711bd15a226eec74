// Finding the programs of the system that the network needs, and naming the package of a missing
// one.
import { accessSync, constants } from 'node:fs';
import { FaradayError } from '../errors.ts';

// As Debian calls them.
const PACKAGES = { ip: 'iproute2', nft: 'nftables', sysctl: 'procps', passt: 'passt' } as const;

export type Program = keyof typeof PACKAGES;

/** Beside PATH: that of an ordinary user often lacks the system folders. */
const FOLDERS = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];

function mayRun(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** The path of a program. Throws FaradayError('host'): `purpose` says what wants it. */
export function findProgram(name: Program, purpose: string, isThere = mayRun): string {
  const folders = (process.env.PATH ?? '').split(':').filter((folder) => folder.startsWith('/'));
  const path = [...folders, ...FOLDERS].map((folder) => `${folder}/${name}`).find(isThere);
  if (path !== undefined) return path;
  const fix = `install Debian's package '${PACKAGES[name]}': apt install ${PACKAGES[name]}`;
  throw new FaradayError('host', `${purpose} needs '${name}', which is not there; ${fix}`);
}
