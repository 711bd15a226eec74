// Events, requests and accesses in words, for the lines of `faraday trace` and for its page.
import { type Access, hexOf } from './accesses.ts';
import { hexNumber } from './names.ts';
import type { TracedRequest } from './request.ts';
import type { TracedEvent } from './trace.ts';

const SHOWN_RANGES = 4;
const SHOWN_BYTES = 32;

/** A request record in words. */
export function requestText(request: TracedRequest): string {
  const { kind, queue, head, tag, offset, length, flags, ranges, text } = request;
  if (kind === 'CONSOLE_OUT') return `CONSOLE_OUT ${length} bytes '${text}'`;
  const shown = ranges.slice(0, SHOWN_RANGES);
  const each = shown.map((range) => `${hexNumber(range.address)}+${range.length}`);
  if (ranges.length > shown.length) each.push(`and ${ranges.length - shown.length} more`);
  const where = kind.startsWith('BLK_') ? ` at ${offset}` : '';
  return [
    `${kind} ${length} bytes${where}, queue ${queue} head ${head} tag ${hexNumber(tag)}`,
    ...(flags.length > 0 ? [flags.join(' ')] : []),
    ...(each.length > 0 ? [`into ${each.join(' ')}`.replace('into', direction(kind))] : []),
  ].join(', ');
}

const direction = (kind: string): string => {
  if (kind === 'NET_RINGS') return 'rings';
  return kind === 'BLK_OUT' || kind === 'NET_TX' ? 'from' : 'into';
};

/** What an event says, without its effects and accesses. */
function bodyOf(event: TracedEvent): string {
  const { register, value, meaning, kind } = event;
  if (register) return `${register} = ${hexNumber(value)}${meaning ? ` (${meaning})` : ''}`;
  return kind === 'input' ? `${meaning}, took ${value}` : meaning;
}

/** What an event says, with its request, without effects and accesses. */
export function eventText(event: TracedEvent): string {
  const body = bodyOf(event);
  if (!event.request) return body;
  return [body, requestText(event.request)].filter(Boolean).join('; ');
}

/** An access and what it is, or its bytes where that is not known. */
export function accessText(access: Access, name: string): string {
  const { kind, address, length, allowed, data } = access;
  if (kind === 'fence') return kind;
  const more = data.length > SHOWN_BYTES ? '...' : '';
  const content = allowed ? `${hexOf(data.subarray(0, SHOWN_BYTES))}${more}` : 'refused';
  const what = allowed ? name || content : `${name} refused`.trim();
  return `${kind.padEnd(8)}${hexNumber(address)}+${length}  ${what}`;
}
