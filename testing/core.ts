// The release core for a test: compiled once, instantiated once for each device. The module comes
// from wherever the caller has it; testing/node.ts adds the files of Node.
import {
  KIND_ACPI_PM,
  KIND_BOOT_TIMER,
  KIND_I8042,
  KIND_PVPANIC,
  KIND_RTC,
  KIND_SERIAL,
  KIND_VIRTIO_BLK,
  KIND_VIRTIO_NET,
  KIND_VIRTIO_RNG,
} from '../assembly/abi.ts';
import { Cage, linkCore } from '../host/cage.ts';
import {
  type BlkConfig,
  encodeBlkConfig,
  encodeNetConfig,
  encodeRngConfig,
  macBytes,
  NET_OFFLOADS_ALL,
  type NetConfig,
} from '../host/device-config.ts';
import { FaradayError } from '../host/errors.ts';
import { GuestMemory } from '../host/guest-memory.ts';

/** Where the core comes from: an address, an answer of fetch(), its bytes, or compiled before. */
export type CoreSource = URL | Response | ArrayBuffer | ArrayBufferView | WebAssembly.Module;

/** A block device: the size of its disk, and what else differs from the default. */
export type BlkOptions = Pick<BlkConfig, 'capacityBytes'> & Partial<BlkConfig>;

/** The devices behind ports, by the names that reports and recordings use. */
export const PORT_KINDS = {
  serial: KIND_SERIAL,
  i8042: KIND_I8042,
  rtc: KIND_RTC,
  'boot-timer': KIND_BOOT_TIMER,
  'acpi-pm': KIND_ACPI_PM,
  pvpanic: KIND_PVPANIC,
} as const;

/** One of those names. */
export type PortKind = keyof typeof PORT_KINDS;

/** A compiled core. What loadCore() resolves to. */
export class Core {
  /** For instances of one's own: linkCore(core.module, memory). */
  readonly module: WebAssembly.Module;

  constructor(module: WebAssembly.Module) {
    this.module = module;
  }

  /**
   * A device of any kind (abi.KIND_*) from the configuration bytes that docs/abi.md lays out; none
   * by default. Throws FaradayError 'internal', with the answer of init(), where the core refuses
   * them.
   */
  create(kind: number, memory: GuestMemory, config?: Uint8Array): Cage {
    return new Cage(kind, linkCore(this.module, memory), config);
  }

  /**
   * A virtio-blk device (virtio 1.2 §5.2) in its power-on state, whose driver lives in `memory`.
   * Throws FaradayError 'bad-usage', which names the option, where one is out of its range.
   */
  createBlk(memory: GuestMemory, options: BlkOptions): Cage {
    checkBlkOptions(options);
    const config = encodeBlkConfig({ readOnly: false, id: 'faraday', ...options });
    return this.create(KIND_VIRTIO_BLK, memory, config);
  }

  /**
   * A virtio-rng device (virtio 1.2 §5.4) whose queue has at most `queueSize` descriptors, 64 by
   * default. Throws as createBlk() does.
   */
  createRng(memory: GuestMemory, options: { queueSize?: number } = {}): Cage {
    checkPowerOfTwo('queueSize', options.queueSize ?? 64, 1, 256);
    return this.create(KIND_VIRTIO_RNG, memory, encodeRngConfig(options));
  }

  /**
   * A virtio-net device (virtio 1.2 §5.1), with the address 02:00:00:00:00:01 by default. Throws as
   * createBlk() does.
   */
  createNet(memory: GuestMemory, options: Partial<NetConfig> = {}): Cage {
    const config = { mac: '02:00:00:00:00:01', ...options };
    checkNetOptions(config);
    return this.create(KIND_VIRTIO_NET, memory, encodeNetConfig(config));
  }

  /** A device behind ports; it reaches no guest memory, and register offsets begin at its port. */
  createPort(name: PortKind): Cage {
    if (!Object.hasOwn(PORT_KINDS, name)) {
      const known = Object.keys(PORT_KINDS).join(', ');
      throw new FaradayError('bad-usage', `no port device '${name}': it is one of ${known}`);
    }
    return this.create(PORT_KINDS[name], new GuestMemory(new ArrayBuffer(0)));
  }
}

function checkRange(name: string, value: number, least: number, most: number): void {
  if (Number.isInteger(value) && value >= least && value <= most) return;
  const what = `${name} is ${value}: give an integer from ${least} to ${most}`;
  throw new FaradayError('bad-usage', what);
}

function checkPowerOfTwo(name: string, value: number, least: number, most: number): void {
  checkRange(name, value, least, most);
  if ((value & (value - 1)) === 0) return;
  throw new FaradayError('bad-usage', `${name} is ${value}: give a power of two`);
}

const U32_MAX = 0xffffffff;

/** What the core's own check asks for (assembly/virtio-blk.ts), told in the caller's words. */
function checkBlkOptions(options: BlkOptions): void {
  const { capacityBytes, queueSize = 256 } = options;
  checkRange('capacityBytes', capacityBytes, 0, Number.MAX_SAFE_INTEGER);
  if (capacityBytes % 512 !== 0) {
    const what = `capacityBytes is ${capacityBytes}: give a multiple of 512, the sector`;
    throw new FaradayError('bad-usage', what);
  }
  checkPowerOfTwo('queueSize', queueSize, 4, 256);
  checkRange('queueCount', options.queueCount ?? 1, 1, 8);
  checkRange('segMax', options.segMax ?? 1, 1, queueSize - 2);
  checkPowerOfTwo('blockSize', options.blockSize ?? 512, 512, 4096);
  if (options.sizeMax) checkRange('sizeMax', options.sizeMax, 512, U32_MAX);
  checkRange('physicalBlockExp', options.physicalBlockExp ?? 0, 0, 15);
  checkRange('alignmentOffset', options.alignmentOffset ?? 0, 0, 0xff);
  checkRange('minIoSize', options.minIoSize ?? 0, 0, 0xffff);
  checkRange('optIoSize', options.optIoSize ?? 0, 0, U32_MAX);
  for (const name of ['maxDiscardSectors', 'discardAlignment', 'maxWriteZeroesSectors'] as const) {
    checkRange(name, options[name] ?? 1, 1, U32_MAX);
  }
}

/** The same for assembly/virtio-net.ts; what offloads require of each other is the core's. */
function checkNetOptions(options: NetConfig): void {
  const { mac, mtu = 0, offloads = 0n } = options;
  const bytes = macBytes(mac);
  if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(mac) || bytes[0] & 1 || bytes.every((b) => b === 0)) {
    const what = `mac is '${mac}': give the address of one interface, 02:00:00:00:00:01 or another`;
    throw new FaradayError('bad-usage', what);
  }
  if (mtu !== 0) checkRange('mtu', mtu, 68, 0xffff);
  checkRange('queuePairs', options.queuePairs ?? 1, 1, 8);
  checkPowerOfTwo('queueSize', options.queueSize ?? 256, 4, 256);
  if ((offloads & ~NET_OFFLOADS_ALL) !== 0n) {
    const what = `offloads is ${offloads}: give bits of NET_OFFLOADS`;
    throw new FaradayError('bad-usage', what);
  }
}

/**
 * Compiles the core of `source`, or of what that resolves to: loadCore(fetch(url)). Without one it
 * is the release build that this package holds: read from its files in Node, fetched from beside
 * this module in a browser. Rejects with a FaradayError 'host' where the module cannot be had,
 * 'bad-usage' where the source is nothing of the kind, and with a WebAssembly.CompileError where
 * the bytes are no module.
 */
export async function loadCore(source?: CoreSource | PromiseLike<CoreSource>): Promise<Core> {
  return new Core(await compile((await source) ?? new URL('./core.wasm', import.meta.url)));
}

async function compile(source: CoreSource): Promise<WebAssembly.Module> {
  if (source instanceof WebAssembly.Module) return source;
  if (source instanceof URL) return compile(await fetchCore(source));
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) {
    return WebAssembly.compile(source as BufferSource);
  }
  if (!(source instanceof Response)) {
    const what = 'give a URL, a Response, bytes or a WebAssembly.Module';
    throw new FaradayError('bad-usage', `source is ${JSON.stringify(source)}: ${what}`);
  }
  if (!source.ok) {
    throw new FaradayError('host', `the core: ${source.url} answers status ${source.status}`);
  }
  // Not compileStreaming(): it refuses what a plain file server sends without the type of .wasm.
  return WebAssembly.compile(await source.arrayBuffer());
}

async function fetchCore(url: URL): Promise<Response> {
  try {
    return await fetch(url);
  } catch (error) {
    throw new FaradayError('host', `the core: cannot get ${url}: ${(error as Error).message}`);
  }
}
