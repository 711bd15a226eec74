// The phases of a boot, as far as calls into devices show them. Each is told once, by the event
// that shows it.
import * as abi from '../../assembly/abi.ts';
import { REG } from '../mmio-registers.ts';
import { CALL_WRITE, TRAPPED } from './format.ts';
import { isVirtio } from './names.ts';
import type { RecordedDevice, RecordedEvent } from './parse.ts';

const DRIVER_OK = 4;

const ENDS: [effect: number, phase: string][] = [
  [abi.EFFECT_POWER_OFF, 'power off'],
  [abi.EFFECT_REBOOT, 'reboot'],
  [abi.EFFECT_PANIC, 'panic'],
];

/** Finds phases event by event. */
export class PhaseFinder {
  private readonly devices: readonly RecordedDevice[];
  private readonly told = new Set<string>();

  constructor(devices: readonly RecordedDevice[]) {
    this.devices = devices;
  }

  /** The phase that this event begins, or empty. */
  take(event: RecordedEvent): string {
    if (event.effects === TRAPPED) return '';
    const phase = this.phaseOf(event);
    if (!phase || this.told.has(phase)) return '';
    this.told.add(phase);
    return phase;
  }

  private phaseOf(event: RecordedEvent): string {
    const { call, place, effects, args, value } = event;
    const { kind, name } = this.devices[place];
    const isMarker = effects & abi.EFFECT_MARKER && value === abi.BOOT_TIMER_MARKER;
    if (isMarker) return 'user space';
    const end = ENDS.find(([effect]) => effects & effect);
    if (end) return end[1];
    if (kind === abi.KIND_SERIAL && effects & abi.EFFECT_OUTPUT) return 'first console output';
    if (kind === abi.KIND_VIRTIO_BLK && effects & abi.EFFECT_REQUEST) return 'first block request';
    const driven =
      isVirtio(kind) && call === CALL_WRITE && args[0] === REG.Status && args[2] & DRIVER_OK;
    return driven && !(effects & abi.EFFECT_INCIDENT) ? `${name} driven` : '';
  }
}
