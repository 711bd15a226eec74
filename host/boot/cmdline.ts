// The kernel command line: Faraday's own parameters, the user's, and the devices where the
// kernel cannot learn of them from ACPI.
import { FaradayError } from '../errors.ts';
import { netmask, type SubnetAddress } from '../net-address.ts';
import type { VirtioSlot } from './image.ts';
import { COMMAND_LINE_BYTES_MAX, KIB, VIRTIO_MMIO_BYTES } from './layout.ts';

// Each parameter spares the guest something it would look for in vain.
export const DEFAULT_PARAMETERS: readonly string[] = [
  'console=ttyS0',
  'panic=1', // a panic ends the run after a second; pvpanic tells it from a reboot
  'reboot=k', // reset by the i8042, which works with ACPI and without
  'pci=off', // no PCI bus: its probe costs many exits
  '8250.nr_uarts=1', // only COM1 exists
  'i8042.noaux', // no mouse port,
  'i8042.nomux', // no multiplexer,
  'i8042.dumbkbd', // and no keyboard to set up
  'cryptomgr.notests', // its algorithms were tested by whoever built the kernel
];

/** The root file system, as the kernel (and the imported initramfs) wants to hear of it. */
export interface RootParameters {
  device: string; // '/dev/vda'
  readOnly: boolean;
  filesystem?: string; // 'ext4'; left out: the kernel tries those it has
}

/** An interface of the guest whose address is known before it starts. */
export interface NetParameters {
  device: string; // 'eth0'
  ip: SubnetAddress;
  gateway?: string;
  dns?: string; // a name server
}

export interface CommandLineOptions {
  append?: string; // the user's, after the default: for most parameters the last one wins
  replace?: string; // the user's, instead of everything
  root?: RootParameters;
  nets?: readonly NetParameters[];
}

function checkText(flag: string, text: string): void {
  for (const character of text) {
    const code = character.codePointAt(0)!;
    if (code >= 0x20 && code !== 0x7f) continue;
    const name = `U+${code.toString(16).toUpperCase().padStart(4, '0')}`;
    const fix = 'remove line breaks, NUL and other control characters';
    throw new FaradayError('bad-usage', `${flag}: holds the character ${name}; ${fix}`);
  }
}

/** Throws FaradayError('bad-usage') where `text` is longer than Linux takes or holds controls. */
export function checkCommandLine(text: string): void {
  checkText('--cmdline', text);
  const lengthBytes = Buffer.byteLength(text);
  const limit = COMMAND_LINE_BYTES_MAX - 1;
  if (lengthBytes <= limit) return;
  const finding = `the kernel command line is ${lengthBytes} bytes long`;
  throw new FaradayError('bad-usage', `--cmdline: ${finding}; the limit is ${limit}: shorten it`);
}

/** `ip=` as Documentation/admin-guide/nfs/nfsroot.rst of Linux has it: no server, no DHCP. */
function ipParameter({ device, ip, gateway = '', dns }: NetParameters): string {
  const end = dns === undefined ? '' : `:${dns}`;
  return `ip=${ip.address}::${gateway}:${netmask(ip.prefix)}::${device}:off${end}`;
}

/** Puts the command line together. Throws FaradayError('bad-usage'). */
export function commandLine(options: CommandLineOptions): string {
  const { append, replace, root, nets = [] } = options;
  if (append !== undefined) checkText('--cmdline', append);
  if (replace !== undefined) checkText('--cmdline-replace', replace);
  if (replace !== undefined) {
    checkCommandLine(replace);
    return replace;
  }
  const parts = [...DEFAULT_PARAMETERS];
  if (root) {
    parts.push(`root=${root.device}`, root.readOnly ? 'ro' : 'rw');
    if (root.filesystem) parts.push(`rootfstype=${root.filesystem}`);
  }
  parts.push(...nets.map(ipParameter));
  if (append) parts.push(append.trim());
  const text = parts.join(' ').trim();
  checkCommandLine(text);
  return text;
}

/** True where the command line switches the guest's ACPI off, so that its tables go unread. */
export function acpiIsOff(text: string): boolean {
  return text.split(/\s+/).includes('acpi=off');
}

/** Adds `virtio_mmio.device=` for each slot, for kernels which read no ACPI tables. */
export function withVirtioDevices(text: string, slots: readonly VirtioSlot[]): string {
  const devices = slots.map(({ address, pin }) => {
    return `virtio_mmio.device=${VIRTIO_MMIO_BYTES / KIB}K@0x${address.toString(16)}:${pin}`;
  });
  // What stands after ' -- ' goes to init, not to the kernel.
  const [kernel, ...init] = text.split(/ -- /);
  const whole = [[kernel, ...devices].join(' ').trim(), ...init].join(' -- ');
  checkCommandLine(whole);
  return whole;
}
