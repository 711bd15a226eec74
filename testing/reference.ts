// Reference devices: a second, naive implementation of every device that the core has, written
// from virtio 1.2, the data sheets and docs/abi.md. It is only an oracle for tests: calls, and the
// guest's writes to RAM, are repeated on it, and whatever differs from the core is a mistake of one
// of the two. It runs wherever JavaScript does.
//
// The core is at liberty in places where a specification leaves a device free; there the reference
// follows docs/abi.md, and says so where it does.
import * as abi from '../assembly/abi.ts';
import { Ledger, type Model, type NetworkState, type ReferenceAnswer } from './reference-answer.ts';
import { blkType } from './reference-blk.ts';
import { netType } from './reference-net.ts';
import {
  AcpiPmModel,
  BootTimerModel,
  I8042Model,
  PvpanicModel,
  RtcModel,
} from './reference-ports.ts';
import type { Ram } from './reference-ring.ts';
import { rngType } from './reference-rng.ts';
import { SerialModel } from './reference-serial.ts';
import { VirtioModel } from './reference-transport.ts';

export type { NetworkState, ReferenceAnswer, ReferenceRecord } from './reference-answer.ts';

function modelOf(kind: number, config: Uint8Array, ram: Ram, ledger: Ledger): Model {
  switch (kind) {
    case abi.KIND_VIRTIO_BLK:
      return new VirtioModel(blkType(config), ram, ledger);
    case abi.KIND_VIRTIO_NET:
      return new VirtioModel(netType(config), ram, ledger);
    case abi.KIND_VIRTIO_RNG:
      return new VirtioModel(rngType(config), ram, ledger);
    case abi.KIND_SERIAL:
      return new SerialModel(ledger);
    case abi.KIND_I8042:
      return new I8042Model(ledger);
    case abi.KIND_RTC:
      return new RtcModel(ledger);
    case abi.KIND_BOOT_TIMER:
      return new BootTimerModel(ledger);
    case abi.KIND_ACPI_PM:
      return new AcpiPmModel(ledger);
    case abi.KIND_PVPANIC:
      return new PvpanicModel(ledger);
    default:
      throw new RangeError(`there is no device of kind ${kind}`);
  }
}

/**
 * One device. Its methods are the exports of the core (docs/abi.md) and take the same numbers, as
 * u32; each returns what the core would leave behind.
 */
export class ReferenceDevice {
  /** KIND_*. */
  readonly kind: number;
  /** The configuration, as init() of the core takes it. */
  readonly config: Uint8Array;
  /** Guest RAM from address 0: the test writes here what the driver writes. */
  readonly ram: Uint8Array;
  readonly #ledger = new Ledger();
  readonly #model: Model;

  /**
   * `config` is what init() of the core accepted: it is not checked again. `ram` is guest RAM from
   * address 0; the device writes to it, so it must not be the core's. A kind that does not exist is
   * a RangeError.
   */
  constructor(kind: number, config: Uint8Array, ram: Uint8Array) {
    this.kind = kind;
    this.config = config;
    this.ram = ram;
    const view = new DataView(ram.buffer, ram.byteOffset, ram.byteLength);
    this.#model = modelOf(kind, config, { bytes: ram, view }, this.#ledger);
    this.#ledger.close();
  }

  /** How often each incident happened, by INCIDENT_*. */
  get counters(): readonly number[] {
    return this.#ledger.counters;
  }

  /** What a network device and its driver agreed on; nothing for another device. */
  get network(): Readonly<NetworkState> | undefined {
    const isNetwork = this.#model instanceof VirtioModel && this.#model.type.network;
    return isNetwork ? (this.#model as VirtioModel).net : undefined;
  }

  /** Another device in the same state, with RAM of its own. */
  clone(): ReferenceDevice {
    const copy = new ReferenceDevice(this.kind, this.config, new Uint8Array(this.ram.length));
    copy.restoreFrom(this);
    return copy;
  }

  /**
   * Takes over state, counters and RAM of a device of the same kind and configuration, whose RAM
   * has the same size: the cheap way back to a prepared device.
   */
  restoreFrom(other: ReferenceDevice): void {
    this.ram.set(other.ram);
    for (let i = 0; i < this.counters.length; i += 1) {
      this.#ledger.counters[i] = other.#ledger.counters[i];
    }
    this.#model.copyFrom(other.#model);
  }

  /** Reads `width` bytes of a register. */
  read(offset: number, width: number): ReferenceAnswer {
    this.#model.read(offset >>> 0, width >>> 0);
    return this.#ledger.close();
  }

  /** Writes `width` bytes of a register. */
  write(offset: number, width: number, value: number): ReferenceAnswer {
    this.#model.write(offset >>> 0, width >>> 0, value >>> 0);
    return this.#ledger.close();
  }

  /** Rings a queue's doorbell. */
  notify(queue: number): ReferenceAnswer {
    this.#model.notify(queue >>> 0);
    return this.#ledger.close();
  }

  /** Asks for the queue's next request, or a UART for its output. */
  next(queue: number): ReferenceAnswer {
    this.#model.next(queue >>> 0);
    return this.#ledger.close();
  }

  /** Reports a request as done: RESULT_*, and the bytes that the host wrote. */
  complete(tag: number, result: number, bytes: number): ReferenceAnswer {
    this.#model.complete(tag >>> 0, result >>> 0, bytes >>> 0);
    return this.#ledger.close();
  }

  /** Bytes for a UART, an RTC or a network device (docs/abi.md); INBOX_BYTES at most. */
  input(bytes: Uint8Array): ReferenceAnswer {
    this.#model.input(bytes.subarray(0, abi.INBOX_BYTES));
    return this.#ledger.close();
  }

  /** Hardware reset: power-on state; configuration and counters stay. */
  reset(): ReferenceAnswer {
    this.#model.reset();
    return this.#ledger.close();
  }

  /** Marks a virtio device as in need of a reset. */
  fail(): ReferenceAnswer {
    this.#model.fail();
    return this.#ledger.close();
  }
}
