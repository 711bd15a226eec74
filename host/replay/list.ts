// The lines of `faraday trace`, as text and as JSON, and which events they are for. docs/replay.md
// has the names; they stay as they are.
import { type Access, hexOf } from './accesses.ts';
import { CALL_NAMES } from './format.ts';
import { EFFECT_NAMES, hexNumber } from './names.ts';
import type { TracedRequest } from './request.ts';
import type { TracedEvent } from './trace.ts';

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

const SHOWN_RANGES = 4;
const SHOWN_BYTES = 32;
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

/** A request record in words. */
export function requestText(request: TracedRequest): string {
  const { kind, queue, head, tag, offset, length, flags, ranges, text } = request;
  if (kind === 'CONSOLE_OUT') return `CONSOLE_OUT ${length} bytes '${text}'`;
  const shown = ranges.slice(0, SHOWN_RANGES);
  const each = shown.map((range) => `${hexNumber(range.address)}+${range.length}`);
  if (ranges.length > shown.length) each.push(`and ${ranges.length - shown.length} more`);
  const where = kind === 'ENTROPY' ? '' : ` at ${offset}`;
  return [
    `${kind} ${length} bytes${where}, queue ${queue} head ${head} tag ${hexNumber(tag)}`,
    ...(flags.length > 0 ? [flags.join(' ')] : []),
    ...(each.length > 0 ? [`into ${each.join(' ')}`.replace('into', direction(kind))] : []),
  ].join(', ');
}

const direction = (kind: string): string => (kind === 'BLK_OUT' ? 'from' : 'into');

function bodyOf(event: TracedEvent): string {
  const { register, value, meaning, kind } = event;
  if (register) return `${register} = ${hexNumber(value)}${meaning ? ` (${meaning})` : ''}`;
  return kind === 'input' ? `${meaning}, took ${value}` : meaning;
}

/** One event as a line, without its end. */
export function eventLine(event: TracedEvent, deviceColumns: number): string {
  const { count, bytes, refused } = sizeOf(event.accesses);
  const effects = event.trapped ? 'TRAP' : event.effects.join(' ');
  const parts = [bodyOf(event)];
  if (event.request) parts.push(requestText(event.request));
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
  const { kind, address, length, allowed, data } = access;
  const indent = ' '.repeat(NUMBER_COLUMNS + TIME_COLUMNS + 4);
  if (kind === 'fence') return `${indent}fence`;
  const more = data.length > SHOWN_BYTES ? '...' : '';
  const content = allowed ? `${hexOf(data.subarray(0, SHOWN_BYTES))}${more}` : 'refused';
  const what = name || content;
  return `${indent}${kind.padEnd(8)}${hexNumber(address)}+${length}  ${allowed ? what : `${name} refused`.trim()}`;
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
