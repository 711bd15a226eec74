// The lines of `faraday trace`, as text and as JSON, and which events they are for. docs/replay.md
// has the names; they stay as they are.
import { type Access, hexOf } from './accesses.ts';
import { CALL_NAMES } from './format.ts';
import { EFFECT_NAMES, hexNumber } from './names.ts';
import type { TracedRequest } from './request.ts';
import type { TracedEvent } from './trace.ts';
import { accessText, eventText } from './words.ts';

/** What --kind takes: calls (an end is none), effects, and what has no effect bit. */
export const KINDS: readonly string[] = [
  ...CALL_NAMES.slice(1),
  ...EFFECT_NAMES.map(([, name]) => name),
  'trap',
  'refused',
  'phase',
];

export interface Filter {
  devices: readonly string[]; // none: all
  kinds: readonly string[]; // none: all
  fromUs: number;
  toUs: number;
}

const TIME_COLUMNS = 12;
const NUMBER_COLUMNS = 7;

function isOfKind(event: TracedEvent, kind: string): boolean {
  if (kind === 'trap') return event.trapped;
  if (kind === 'refused') return event.accesses.some(({ allowed }) => !allowed);
  if (kind === 'phase') return event.phase !== '';
  return event.kind === kind || event.effects.includes(kind);
}

export function passes(event: TracedEvent, { devices, kinds, fromUs, toUs }: Filter): boolean {
  if (event.timeUs < fromUs || event.timeUs > toUs) return false;
  if (devices.length > 0 && !devices.includes(event.device)) return false;
  return kinds.length === 0 || kinds.some((kind) => isOfKind(event, kind));
}

function sizeOf(accesses: readonly Access[]) {
  let [bytes, refused] = [0, 0];
  for (const { data, allowed } of accesses) {
    bytes += data.length;
    if (!allowed) refused++;
  }
  return { count: accesses.length, bytes, refused };
}

/** One event as a line, without its end. */
export function eventLine(event: TracedEvent, deviceColumns: number): string {
  const { count, bytes, refused } = sizeOf(event.accesses);
  const effects = event.trapped ? 'TRAP' : event.effects.join(' ');
  const parts = [eventText(event)];
  if (count > 0) parts.push(`${count} accesses of ${bytes} bytes`);
  if (refused > 0) parts.push(`${refused} refused`);
  const columns = [
    String(event.number).padStart(NUMBER_COLUMNS),
    (event.timeUs / 1000).toFixed(3).padStart(TIME_COLUMNS),
    event.device.padEnd(deviceColumns),
    event.kind.padEnd(8),
    parts.filter(Boolean).join('; '),
  ];
  const after = `${effects && ` -> ${effects}`}${event.phase && ` [${event.phase}]`}`;
  return `${columns.join('  ')}${after}`.trimEnd();
}

/** One access as a line below its event's, without its end. */
export function accessLine(access: Access, name: string): string {
  return `${' '.repeat(NUMBER_COLUMNS + TIME_COLUMNS + 4)}${accessText(access, name)}`;
}

function accessObject({ kind, address, length, allowed, data }: Access, name: string) {
  return {
    kind,
    address: hexNumber(address),
    length,
    refused: !allowed,
    data: hexOf(data),
    meaning: name || null,
  };
}

function requestObject(request: TracedRequest) {
  const ranges = request.ranges.map(({ address, length }) => ({
    address: hexNumber(address),
    length,
  }));
  return { ...request, ranges, text: request.kind === 'CONSOLE_OUT' ? request.text : null };
}

/** One event as JSON; `names` of its accesses where they are to be listed. */
export function eventJson(event: TracedEvent, names: readonly string[] | null): string {
  const isRegister = event.register !== '';
  return JSON.stringify({
    event: event.number,
    timeMs: event.timeUs / 1000,
    device: event.device,
    kind: event.kind,
    register: isRegister ? event.register : null,
    offset: isRegister ? event.offset : null,
    width: isRegister ? event.width : null,
    value: event.value,
    meaning: event.meaning || null,
    effects: event.effects,
    trapped: event.trapped,
    request: event.request && requestObject(event.request),
    phase: event.phase || null,
    accesses: sizeOf(event.accesses),
    ...(names && {
      accessList: event.accesses.map((access, index) => accessObject(access, names[index])),
    }),
  });
}
