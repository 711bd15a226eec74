// Which device answers at which port or address (docs/memory-map.md), and how each is made.
import {
  EFFECT_INPUT_SPACE,
  EFFECT_IRQ,
  EFFECT_MARKER,
  EFFECT_MORE,
  EFFECT_OUTPUT,
  EFFECT_PANIC,
  EFFECT_POWER_OFF,
  EFFECT_REBOOT,
  EFFECT_REQUEST,
  KIND_ACPI_PM,
  KIND_BOOT_TIMER,
  KIND_I8042,
  KIND_PVPANIC,
  KIND_RTC,
  KIND_SERIAL,
  PORT_ACPI_PM,
  PORT_BOOT_TIMER,
  PORT_I8042_COMMAND,
  PORT_I8042_DATA,
  PORT_PVPANIC,
  PORT_RTC,
  PORT_SERIAL,
} from '../../assembly/abi.ts';
import type { MachineImage, VirtioDevice } from '../boot/image.ts';
import { SERIAL_PIN, VIRTIO_MMIO_BYTES, VIRTIO_MMIO_START } from '../boot/layout.ts';
import { Cage } from '../core.ts';
import { GuestMemory } from '../guest-memory.ts';
import type { DevicePlan } from '../replay/header.ts';
import type { Recorder } from '../replay/recorder.ts';
import { WINDOW_STRIDE } from '../shim.ts';
import { virtioPlan } from '../virtio-plan.ts';
import { Device, type DeviceOptions } from './device.ts';

const NO_PIN = -1;
const NOT_RECORDED = -1;

/** A device where the guest sees it; offsets count from `base`. */
export interface Place {
  device: Device;
  base: number;
  prepare?: () => void; // runs before each access
}

export interface BusOptions {
  now: () => number;
  unixSeconds: () => number;
  onTrap: DeviceOptions['onTrap'];
  recorder?: Recorder; // sees every call into every cage
}

interface PortPlan {
  name: string;
  kind: number;
  ports: readonly [first: number, last: number];
  rights: number; // see DeviceOptions
  pin?: number;
}

const SERIAL_RIGHTS = EFFECT_IRQ | EFFECT_OUTPUT | EFFECT_REQUEST | EFFECT_INPUT_SPACE;
const VIRTIO_RIGHTS = EFFECT_IRQ | EFFECT_REQUEST | EFFECT_MORE;

/** Offsets count from the first port: the i8042 has data at 0 and its command port at 4. */
const PORT_PLANS: readonly PortPlan[] = [
  {
    name: 'serial',
    kind: KIND_SERIAL,
    ports: [PORT_SERIAL, PORT_SERIAL + 7],
    rights: SERIAL_RIGHTS,
    pin: SERIAL_PIN,
  },
  {
    name: 'i8042',
    kind: KIND_I8042,
    ports: [PORT_I8042_DATA, PORT_I8042_COMMAND],
    rights: EFFECT_REBOOT,
  },
  { name: 'rtc', kind: KIND_RTC, ports: [PORT_RTC, PORT_RTC + 1], rights: 0 },
  {
    name: 'acpi-pm',
    kind: KIND_ACPI_PM,
    ports: [PORT_ACPI_PM, PORT_ACPI_PM + 2],
    rights: EFFECT_POWER_OFF | EFFECT_REBOOT,
  },
  {
    name: 'pvpanic',
    kind: KIND_PVPANIC,
    ports: [PORT_PVPANIC, PORT_PVPANIC],
    rights: EFFECT_PANIC,
  },
];

const BOOT_TIMER_PLAN: PortPlan = {
  name: 'boot-timer',
  kind: KIND_BOOT_TIMER,
  ports: [PORT_BOOT_TIMER, PORT_BOOT_TIMER],
  rights: EFFECT_MARKER,
};

const NO_CONFIG = new Uint8Array(0);

const portPlans = ({ bootTimer }: MachineImage): readonly PortPlan[] =>
  bootTimer ? [...PORT_PLANS, BOOT_TIMER_PLAN] : PORT_PLANS;

/** All devices of a machine in the order of their places, here and in a cell (shim/bus.c). */
export function devicePlans(image: MachineImage): DevicePlan[] {
  const ports = portPlans(image).map(({ name, kind }) => ({ name, kind, config: NO_CONFIG }));
  return [...ports, ...image.virtio.map(virtioPlan)];
}

/** All devices of a machine, by port and by window. */
export class Bus {
  readonly devices: Device[] = [];
  readonly serial: Device;
  private readonly memory: GuestMemory;
  private readonly options: BusOptions;
  private readonly ports = new Map<number, Place>();
  private readonly windows: Place[] = []; // by index of the page from VIRTIO_MMIO_START

  constructor(image: MachineImage, windows: readonly ArrayBuffer[], options: BusOptions) {
    this.memory = new GuestMemory(windows, WINDOW_STRIDE);
    this.options = options;
    if (options.recorder) {
      options.recorder.setMemory(image.memoryBytes);
      this.memory.log = options.recorder.log;
    }
    for (const plan of portPlans(image)) this.addPorts(plan);
    for (const device of image.virtio) this.addWindow(device);
    this.serial = this.ports.get(PORT_SERIAL)!.device;
  }

  port(port: number): Place | undefined {
    return this.ports.get(port);
  }

  mmio(address: number): Place | undefined {
    return this.windows[Math.floor((address - VIRTIO_MMIO_START) / VIRTIO_MMIO_BYTES)];
  }

  private addDevice(
    place: Pick<DeviceOptions, 'name' | 'pin' | 'rights'>,
    kind: number,
    config: Uint8Array,
  ): Device {
    const { now, onTrap, recorder } = this.options;
    const recorded = recorder?.addDevice(place.name, kind, config) ?? NOT_RECORDED;
    const create = () => {
      const cage = new Cage(kind, this.memory, config);
      return recorder ? recorder.watch(recorded, cage) : cage;
    };
    const device = new Device({ ...place, create, now, onTrap });
    this.devices.push(device);
    return device;
  }

  private addPorts({ name, kind, ports: [first, last], rights, pin = NO_PIN }: PortPlan): void {
    const device = this.addDevice({ name, pin, rights }, kind, NO_CONFIG);
    const place: Place = { device, base: first };
    if (kind === KIND_RTC) place.prepare = () => this.tellTime(device);
    for (let port = first; port <= last; port++) {
      // Between the i8042's two ports lie the PC speaker's and the NMI register: not ours.
      if (kind === KIND_I8042 && port !== first && port !== last) continue;
      this.ports.set(port, place);
    }
  }

  private addWindow(virtio: VirtioDevice): void {
    const { address, pin } = virtio.slot;
    const { name, kind, config } = virtioPlan(virtio);
    const device = this.addDevice({ name, pin, rights: VIRTIO_RIGHTS }, kind, config);
    const index = (address - VIRTIO_MMIO_START) / VIRTIO_MMIO_BYTES;
    this.windows[index] = { device, base: address };
  }

  /** The core has no clock: an RTC hears the time before each access. */
  private tellTime(rtc: Device): void {
    const time = new Uint8Array(8);
    new DataView(time.buffer).setBigUint64(0, BigInt(this.options.unixSeconds()), true);
    rtc.input(time);
  }
}
