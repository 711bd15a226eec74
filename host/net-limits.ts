// The rate limiters of a network, as users write them: Firecracker's token buckets, one for bytes
// and one for frames in each direction.
import type { RateLimiter, TokenBucket } from './boot/image.ts';
import { type OptionKeys, type OptionKind, type RawSettings, usage } from './settings.ts';
import { parseSize } from './size.ts';

const DIRECTIONS = ['rx', 'tx'] as const;
const BUCKETS: readonly (readonly [string, OptionKind])[] = [
  ['bw', 'size'],
  ['ops', 'integer'],
];

/** `rx-bw-size=` and the eleven others. */
export const LIMIT_KEYS: OptionKeys = Object.fromEntries(
  DIRECTIONS.flatMap((direction) =>
    BUCKETS.flatMap(([name, kind]): [string, OptionKind][] => [
      [`${direction}-${name}-size`, kind],
      [`${direction}-${name}-one-time-burst`, kind],
      [`${direction}-${name}-refill-time`, 'integer'],
    ]),
  ),
);

/** Tokens: a whole number, or bytes with a unit. */
function tokens(field: string, value: unknown): number {
  const isDigits = typeof value === 'string' && /^\d+$/.test(value);
  const count = typeof value === 'string' && !isDigits ? parseSize(field, value) : Number(value);
  if (Number.isSafeInteger(count) && count >= 0) return count;
  throw usage(`${field} '${value}' must be a whole number of at most 2^53`);
}

/** One bucket; none where nothing is said, and as in Firecracker where its size or time is 0. */
function toBucket(flag: string, net: RawSettings, prefix: string): TokenBucket | undefined {
  const [size, burst, refill] = ['size', 'one-time-burst', 'refill-time'].map((name) => {
    const value = net[`${prefix}-${name}`];
    return value === undefined ? undefined : tokens(`${flag} ${prefix}-${name}`, value);
  });
  if (size === undefined && burst === undefined && refill === undefined) return undefined;
  if (size === undefined) {
    const given = burst === undefined ? 'refill-time' : 'one-time-burst';
    throw usage(`${flag} ${prefix}-${given} needs ${prefix}-size= beside it`);
  }
  if (refill === undefined) {
    throw usage(`${flag} ${prefix}-size needs ${prefix}-refill-time= beside it, in milliseconds`);
  }
  if (size === 0 || refill === 0) return undefined;
  return { size, oneTimeBurst: burst ?? 0, refillMs: refill };
}

/** The limits of one direction. */
export function toLimiter(
  flag: string,
  net: RawSettings,
  direction: (typeof DIRECTIONS)[number],
): RateLimiter {
  const bandwidth = toBucket(flag, net, `${direction}-bw`);
  const ops = toBucket(flag, net, `${direction}-ops`);
  return { ...(bandwidth && { bandwidth }), ...(ops && { ops }) };
}
