// One emulated device: its cage, its place on the bus, and what happens when the cage traps.
// docs/design.md, 'A trap concerns one device'.

/** What the engine needs of a cage; host/cage.ts has the real one. Calls answer effect bits. */
export interface CageCalls {
  read(offset: number, width: number): number;
  write(offset: number, width: number, value: number): number;
  next(queue: number): number;
  complete(tag: number, result: number, bytes: number): number;
  input(bytes: Uint8Array): number;
  fail(): number;
  value(): number; // what read(), input() or an event effect left in the outbox
  record(): Uint8Array; // a copy of the request record
  outputBytes(target: Uint8Array, offset: number): number; // of a CONSOLE_OUT record
  counters(): Record<string, number>;
}

/** A second trap this soon after the first takes the device out of service. */
const TRAP_WINDOW_MS = 1000;

export interface DeviceOptions {
  name: string; // as the report and the log show it
  pin: number; // IOAPIC pin, or -1 where the device has no interrupt
  rights: number; // the EFFECT_* bits its kind of device may answer; others are dropped
  create: () => CageCalls; // a fresh, initialised instance
  now: () => number; // milliseconds, for the trap window only
  onTrap: (device: Device, dead: boolean, reason: string) => void;
}

export class Device {
  readonly name: string;
  readonly pin: number;
  exits = 0;
  traps = 0;
  dead = false;
  private readonly options: DeviceOptions;
  private readonly rights: number;
  private cage: CageCalls;
  private lastTrapMs = Number.NEGATIVE_INFINITY;
  private lostCounts: Record<string, number> = {};

  constructor(options: DeviceOptions) {
    this.options = options;
    this.name = options.name;
    this.pin = options.pin;
    this.rights = options.rights;
    this.cage = options.create();
  }

  // read(), write() and next() lie on the path of every exit, so they spell out what guard() does.

  read(offset: number, width: number): number {
    if (this.dead) return 0;
    try {
      return this.cage.read(offset, width) & this.rights;
    } catch (error) {
      return this.trapped(error);
    }
  }

  write(offset: number, width: number, value: number): number {
    if (this.dead) return 0;
    try {
      return this.cage.write(offset, width, value) & this.rights;
    } catch (error) {
      return this.trapped(error);
    }
  }

  next(queue: number): number {
    if (this.dead) return 0;
    try {
      return this.cage.next(queue) & this.rights;
    } catch (error) {
      return this.trapped(error);
    }
  }

  complete(tag: number, result: number, bytes: number): number {
    return this.guard((cage) => cage.complete(tag, result, bytes));
  }

  input(bytes: Uint8Array): number {
    return this.guard((cage) => cage.input(bytes));
  }

  /** The outbox value; a dead device reads all ones. */
  value(): number {
    return this.dead ? 0xffffffff : this.cage.value();
  }

  /** A copy of the request record; null where the cage's claims about it were a trap. */
  record(): Uint8Array | null {
    const copy: { record: Uint8Array | null } = { record: null };
    this.guard((cage) => {
      copy.record = cage.record();
      return 0;
    });
    return copy.record;
  }

  /** Appends console output to `target` at `offset`; returns the number of bytes. */
  outputBytes(target: Uint8Array, offset: number): number {
    if (this.dead) return 0;
    try {
      return this.cage.outputBytes(target, offset);
    } catch (error) {
      this.trapped(error);
      return 0;
    }
  }

  /** Incidents since start, those of instances lost to traps included; only what happened. */
  incidents(): Record<string, number> {
    return addCounts(this.lostCounts, this.cage.counters());
  }

  private guard(entry: (cage: CageCalls) => number): number {
    if (this.dead) return 0;
    try {
      return entry(this.cage) & this.rights;
    } catch (error) {
      return this.trapped(error);
    }
  }

  /**
   * A trap restarts the instance and answers the effects of its fail(): a virtio device then shows
   * DEVICE_NEEDS_RESET, a port device carries on. Any other error is our own and goes on.
   */
  private trapped(error: unknown): number {
    if (!(error instanceof WebAssembly.RuntimeError)) throw error;
    return this.restart(error.message);
  }

  private restart(reason: string): number {
    const nowMs = this.options.now();
    this.traps++;
    this.dead = nowMs - this.lastTrapMs < TRAP_WINDOW_MS;
    this.lastTrapMs = nowMs;
    this.lostCounts = this.incidents();
    this.options.onTrap(this, this.dead, reason);
    if (this.dead) return 0;
    this.cage = this.options.create();
    return this.cage.fail() & this.rights;
  }
}

function addCounts(a: Record<string, number>, b: Record<string, number>): Record<string, number> {
  const sum = { ...a };
  for (const [name, count] of Object.entries(b)) {
    if (count > 0) sum[name] = (sum[name] ?? 0) + count;
  }
  return sum;
}
