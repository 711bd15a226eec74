// What this host offers a microVM monitor. Opens, reads and asks only; changes nothing.
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
} from 'node:fs';
import { checkLayers } from './confine/check-layers.ts';
import { type NativeError, shim } from './shim.ts';

export interface CheckLine {
  subject: string;
  state: 'ok' | 'note' | 'miss'; // miss: no guest can run; note: something optional lacks
  finding: string;
  fix?: string;
}

const REQUIRED_API_VERSION = 12; // the only one KVM ever published

/** Capabilities the shim cannot do without, by their names in linux/kvm.h. */
const REQUIRED_CAPABILITIES = [
  'KVM_CAP_IRQCHIP',
  'KVM_CAP_USER_MEMORY',
  'KVM_CAP_SET_TSS_ADDR',
  'KVM_CAP_EXT_CPUID',
  'KVM_CAP_IMMEDIATE_EXIT',
  'KVM_CAP_IRQFD',
  'KVM_CAP_IOEVENTFD',
];

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return undefined;
  }
}

function writable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** The KVM module that serves /dev/kvm here: kvm_intel, kvm_amd, kvm_pvm, or undefined. */
export function kvmModule(): string | undefined {
  return ['kvm_intel', 'kvm_amd', 'kvm_pvm'].find((name) => existsSync(`/sys/module/${name}`));
}

function checkDevice(): CheckLine {
  const subject = '/dev/kvm';
  if (!existsSync(subject)) {
    return {
      subject,
      state: 'miss',
      finding: 'does not exist',
      fix:
        'switch on virtualization in the firmware, then ' +
        "'modprobe kvm_intel' or 'modprobe kvm_amd'; " +
        "without either, 'npm run lab' emulates a host",
    };
  }
  if (writable(subject)) return { subject, state: 'ok', finding: 'exists, readable and writable' };
  return {
    subject,
    state: 'miss',
    finding: 'exists, but this user may not open it',
    fix: "'sudo usermod -aG kvm $USER' and log in again",
  };
}

function checkModule(): CheckLine {
  const subject = 'KVM module';
  const name = kvmModule();
  if (!name) return { subject, state: 'note', finding: 'not found under /sys/module' };
  if (name !== 'kvm_pvm') return { subject, state: 'ok', finding: name };
  return {
    subject,
    state: 'miss',
    finding:
      'kvm_pvm: emulates unmodified guests in software and fails on some instructions ' +
      'Linux needs; bare-metal test guests run, Linux does not',
    fix: "use a host with kvm_intel or kvm_amd, or 'npm run lab'",
  };
}

function checkKvm(): CheckLine[] {
  try {
    const { kvmApiVersion, extensions } = shim().probeKvm();
    const missing = REQUIRED_CAPABILITIES.filter((name) => !(extensions[name] > 0));
    const found = Object.keys(extensions).filter((name) => extensions[name] > 0);
    return [
      {
        subject: 'KVM API',
        state: kvmApiVersion === REQUIRED_API_VERSION ? 'ok' : 'miss',
        finding: `version ${kvmApiVersion}`,
        fix:
          kvmApiVersion === REQUIRED_API_VERSION ? undefined : 'use a Linux kernel from 2.6.22 on',
      },
      missing.length === 0
        ? { subject: 'KVM capabilities', state: 'ok', finding: found.join(' ') }
        : {
            subject: 'KVM capabilities',
            state: 'miss',
            finding: `missing: ${missing.join(' ')}; found: ${found.join(' ')}`,
            fix: 'use a newer kernel, or a KVM module with these',
          },
    ];
  } catch (error) {
    const { code, syscall } = error as NativeError;
    return [
      { subject: 'KVM API', state: 'miss', finding: `cannot be asked (${syscall}: ${code})` },
    ];
  }
}

/** Opened and closed again: a node may be there without its driver. Makes no interface. */
function checkNode(path: string, module: string): CheckLine {
  if (writable(path)) {
    try {
      closeSync(openSync(path, constants.O_RDWR | constants.O_NONBLOCK));
      return { subject: path, state: 'ok', finding: 'readable and writable' };
    } catch (error) {
      const finding = `cannot be opened (${(error as NodeJS.ErrnoException).code})`;
      return { subject: path, state: 'note', finding, fix: `'modprobe ${module}'` };
    }
  }
  if (existsSync(path)) {
    return {
      subject: path,
      state: 'note',
      finding: 'this user may not open it',
      fix: "run as root for a network; '--net-backend user' needs neither",
    };
  }
  return { subject: path, state: 'note', finding: 'does not exist', fix: `'modprobe ${module}'` };
}

function checkHugePages(): CheckLine {
  const subject = 'huge pages';
  const transparent = /\[(\w+)\]/.exec(
    readText('/sys/kernel/mm/transparent_hugepage/enabled') ?? '',
  );
  const folder = '/sys/kernel/mm/hugepages';
  const reserved = existsSync(folder)
    ? readdirSync(folder).map((size) => {
        const free = readText(`${folder}/${size}/free_hugepages`) ?? '?';
        return `${free} free of ${size.replace('hugepages-', '')}`;
      })
    : [];
  const finding = [`transparent: ${transparent?.[1] ?? 'not available'}`, ...reserved].join(', ');
  return { subject, state: transparent ? 'ok' : 'note', finding };
}

/** Every line of `faraday check`, the decisive ones first. */
export function checkHost(): CheckLine[] {
  const device = checkDevice();
  return [
    device,
    checkModule(),
    ...(device.state === 'ok' ? checkKvm() : []),
    ...checkLayers(),
    checkNode('/dev/net/tun', 'tun'),
    checkNode('/dev/vhost-net', 'vhost_net'),
    checkHugePages(),
  ];
}
