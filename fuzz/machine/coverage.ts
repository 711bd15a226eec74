// Which edges a run took, and how often, by classes of counts. No specification.
import { EDGES, VIRGIN } from "./places";

let edgeBytes: usize = 0; // a multiple of 8

/** Forgets what was ever reached; `edges`: how many there are. */
export function resetCoverage(edges: u32): void {
  edgeBytes = (<usize>edges + 7) & ~7;
  memory.fill(VIRGIN, 0, edgeBytes);
  memory.fill(EDGES, 0, edgeBytes);
}

export function clearEdges(): void {
  memory.fill(EDGES, 0, edgeBytes);
}

// 1, 2, 3, 4-7, 8-15, 16-31, 32-127, 128-255 times.
function classOf(count: u32): u8 {
  if (count < 4) return <u8>(<u32>1 << (count - 1));
  if (count < 32) return <u8>(<u32>1 << (32 - clz(count)));
  return count < 128 ? 0x40 : 0x80;
}

/** Enters the run's counts; true where one was in a class that this edge never had. */
export function newCoverage(): bool {
  let fresh = false;
  for (let word: usize = 0; word < edgeBytes; word += 8) {
    if (load<u64>(EDGES + word) == 0) continue;
    for (let at = word; at < word + 8; at++) {
      const count: u32 = load<u8>(EDGES + at);
      if (count == 0) continue;
      const bit = classOf(count);
      const seen = load<u8>(VIRGIN + at);
      if (seen & bit) continue;
      store<u8>(VIRGIN + at, seen | bit);
      fresh = true;
    }
  }
  return fresh;
}
