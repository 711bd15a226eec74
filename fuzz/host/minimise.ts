// Which inputs of a corpus are worth keeping: few small ones that together reach what all do.
import { CORPUS_BYTES_MAX, CORPUS_FILES_MAX } from './corpus.ts';
import type { Coverage, Reached } from './coverage.ts';
import type { HostTarget, Parser } from './target.ts';
import { runBatch } from './verdict.ts';

function reachedBy(
  target: HostTarget,
  parser: Parser,
  coverage: Coverage,
  input: Uint8Array,
): Reached {
  coverage.take();
  runBatch(target, parser, [input]);
  return coverage.take();
}

/**
 * The inputs, the smallest first, each of which reaches a block that neither the seeds nor those
 * before it do; at most CORPUS_FILES_MAX of them, and CORPUS_BYTES_MAX in all.
 */
export function leastInputs(
  target: HostTarget,
  parser: Parser,
  coverage: Coverage,
  inputs: readonly Uint8Array[],
): Uint8Array[] {
  for (const seed of parser.seeds()) {
    coverage.merge(reachedBy(target, parser, coverage, seed));
  }
  const kept: Uint8Array[] = [];
  let bytes = 0;
  for (const input of [...inputs].sort((a, b) => a.length - b.length)) {
    if (kept.length >= CORPUS_FILES_MAX || bytes + input.length > CORPUS_BYTES_MAX) break;
    const reached = reachedBy(target, parser, coverage, input);
    if (!coverage.hasNews(reached)) continue;
    coverage.merge(reached);
    kept.push(input);
    bytes += input.length;
  }
  return kept;
}
