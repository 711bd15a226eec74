// Numbers of the core in words, for the messages of failed assertions.
import * as abi from '../assembly/abi.ts';

/** The names in abi.ts behind `prefix`, by their number: 'IRQ' for EFFECT_IRQ. */
function namesOf(prefix: string): Map<number, string> {
  const entries = Object.entries(abi).filter(([name]) => name.startsWith(prefix));
  return new Map(entries.map(([name, value]) => [value, name.slice(prefix.length)]));
}

const EFFECTS = namesOf('EFFECT_');
const REQUEST_KINDS = namesOf('REQUEST_KIND_');

/**
 * The effect bits that an entry of the core answered, lowest first: ['IRQ', 'MORE']. A bit without
 * a name is there as a number, '0x4000'.
 */
export function effectNames(effects: number): string[] {
  const names: string[] = [];
  for (let bit = 0; bit < 32; bit += 1) {
    const mask = (1 << bit) >>> 0;
    if ((effects & mask) !== 0) names.push(EFFECTS.get(mask) ?? `0x${mask.toString(16)}`);
  }
  return names;
}

/** The kind of a request record: 'BLK_IN'. A number without a name is told as one. */
export function requestKindName(kind: number): string {
  return REQUEST_KINDS.get(kind) ?? `${kind}`;
}
