// The system packages that Faraday's build, tests and lab need, and how to see that each is there.
// Plain JavaScript, because tools/setup.mjs asks before anything is installed.
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Where commands are looked for: an ordinary user's PATH often lacks the system folders. */
export const searchPath = [process.env.PATH ?? '', '/usr/local/sbin', '/usr/sbin', '/sbin'].join(
  delimiter,
);

/**
 * @typedef {object} Package
 * @property {string} name as Debian and Ubuntu call it
 * @property {string} purpose what it does here
 * @property {string[]} commands that it brings
 * @property {string} [file] that it brings, where it has no command
 */

/** @type {Package[]} */
export const PACKAGES = [
  { name: 'gcc', purpose: 'compiles the shim and the guest init', commands: ['gcc'] },
  { name: 'g++', purpose: 'compiles the addon', commands: ['g++'] },
  {
    name: 'linux-libc-dev',
    purpose: 'describes KVM to the shim',
    commands: [],
    file: '/usr/include/linux/kvm.h',
  },
  { name: 'qemu-system-x86', purpose: 'emulates the lab', commands: ['qemu-system-x86_64'] },
  { name: 'busybox-static', purpose: 'is the user space of small guests', commands: ['busybox'] },
  { name: 'kmod', purpose: 'finds the modules a kernel needs', commands: ['modprobe', 'depmod'] },
  { name: 'cpio', purpose: 'packs initramfs files', commands: ['cpio'] },
  {
    name: 'e2fsprogs',
    purpose: 'makes and checks disk images',
    commands: ['mkfs.ext4', 'e2fsck', 'debugfs'],
  },
  { name: 'acpica-tools', purpose: 'checks the ACPI tables in tests', commands: ['iasl'] },
  { name: 'xz-utils', purpose: 'unpacks kernels', commands: ['xz'] },
  { name: 'zstd', purpose: 'unpacks kernels', commands: ['zstd'] },
  { name: 'lz4', purpose: 'unpacks kernels', commands: ['lz4'] },
  { name: 'lzop', purpose: 'unpacks kernels', commands: ['lzop'] },
  { name: 'strace', purpose: 'sees the system calls of cells in tests', commands: ['strace'] },
  { name: 'iproute2', purpose: 'makes the networks of tests', commands: ['ip'] },
  { name: 'nftables', purpose: 'translates addresses in tests of networks', commands: ['nft'] },
  { name: 'passt', purpose: 'is the network of guests without rights', commands: ['passt'] },
  { name: 'python3', purpose: 'plays a terminal in tests', commands: ['python3'] },
  { name: 'chromium', purpose: 'opens web pages in tests', commands: ['chromium'] },
];

/** @param {string} name @returns {string | undefined} the path of a command that can be run */
export function findCommand(name) {
  return searchPath
    .split(delimiter)
    .map((folder) => join(folder, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

/** Whether busybox runs in an initramfs of its own, that is, without shared libraries. */
function busyboxIsStatic() {
  const path = findCommand('busybox');
  // A dynamically linked program names its loader in its first page.
  return path !== undefined && !readFileSync(path).subarray(0, 4096).includes('/ld-linux');
}

/** @param {Package} each @returns {boolean} */
export function isPresent({ name, commands, file }) {
  if (name === 'busybox-static' && !busyboxIsStatic()) {
    return false;
  }
  return commands.every((command) => findCommand(command)) && (!file || existsSync(file));
}
