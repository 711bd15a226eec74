// Sizes as users write them: a number and a binary unit.
import { FaradayError } from './errors.ts';

const UNIT_BYTES: Record<string, number> = {
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
};

/** Reads '128M', '1.5G' or '512KiB' as bytes. `field` names the flag or key in the error. */
export function parseSize(field: string, text: string): number {
  const match = /^(\d+(?:\.\d+)?)([KMGT])(?:i?B)?$/i.exec(text.trim());
  if (!match) {
    const hint = /^\d+$/.test(text.trim())
      ? `it lacks a unit: ${text.trim()}M?`
      : 'such as 128M or 2G';
    throw new FaradayError(
      'bad-usage',
      `${field} '${text}' is not a size; write one with a unit, ${hint}`,
    );
  }
  const bytes = Number(match[1]) * UNIT_BYTES[match[2].toUpperCase()];
  if (bytes > Number.MAX_SAFE_INTEGER) {
    throw new FaradayError('bad-usage', `${field} '${text}' is more than any host has; use less`);
  }
  if (!Number.isInteger(bytes)) {
    throw new FaradayError('bad-usage', `${field} '${text}' is not a whole number of bytes`);
  }
  return bytes;
}

/** Bytes as a short text: the largest binary unit that leaves no fraction. */
export function formatSize(bytes: number): string {
  for (const unit of ['T', 'G', 'M', 'K']) {
    if (bytes >= UNIT_BYTES[unit] && bytes % UNIT_BYTES[unit] === 0) {
      return `${bytes / UNIT_BYTES[unit]}${unit}`;
    }
  }
  return `${bytes} bytes`;
}
