// The nearest known word to a mistyped one.

const WORD_CHARACTERS_MAX = 100;

/** Levenshtein distance, both words short. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const swap = row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(swap, row[j] + 1, next[j - 1] + 1));
    }
    row = next;
  }
  return row[b.length];
}

/** The candidate closest to `word`, or undefined where none is near enough to be meant. */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  if (word.length > WORD_CHARACTERS_MAX) return undefined;
  let best: string | undefined;
  // Of a very short word every letter may be wrong, and then anything would be near.
  const farthest = Math.min(Math.max(2, Math.floor(word.length / 3)), word.length - 1);
  let bestDistance = farthest + 1;
  for (const candidate of candidates) {
    const d = candidate.startsWith(word) && word.length > 2 ? 1 : distance(word, candidate);
    if (d < bestDistance) {
      best = candidate;
      bestDistance = d;
    }
  }
  return best;
}
