// The search of one target: changes inputs of the corpus, runs them in batches, and keeps each
// input that reached a block which no other did.
//
// Taking coverage costs as much as a hundred short inputs. So a batch of inputs runs between two
// takes; where the take has news, the batch runs again in halves until the inputs that brought it
// are found. A batch is twice as large after each one without news, and small again after news.
// Nothing here depends on time, so a seed gives the same inputs each time.
import { type Random, randomFrom } from '../../testing/random.ts';
import type { Coverage, Reached } from './coverage.ts';
import { copyOf, havoc } from './mutate.ts';
import { shrink } from './shrink.ts';
import type { HostTarget, Parser } from './target.ts';
import { type Crash, runAlone, runBatch } from './verdict.ts';

const BATCH_MIN = 8;
const BATCH_MAX = 512;
const RECENT = 8; // half of all changes are made to one of the latest inputs
const STRUCTURED_OF = 2; // one of so many changes knows the format, where there is one that does
const KINDS_MAX = 50; // crashes of more kinds are not looked at

export class Search {
  readonly added: Uint8Array[] = []; // inputs that reached something new, those given left out
  executions = 0;
  private readonly target: HostTarget;
  private readonly parser: Parser;
  private readonly coverage: Coverage;
  private readonly random: Random;
  private readonly words: readonly Uint8Array[];
  private readonly onCrash: (crash: Crash, input: Uint8Array) => void;
  private readonly corpus: Uint8Array[] = [];
  private readonly kinds = new Set<string>();
  private batchSize = BATCH_MIN;

  constructor(options: {
    target: HostTarget;
    parser: Parser;
    coverage: Coverage;
    seed: number;
    words: readonly Uint8Array[];
    onCrash: (crash: Crash, input: Uint8Array) => void; // one of each kind, shrunk
  }) {
    this.target = options.target;
    this.parser = options.parser;
    this.coverage = options.coverage;
    this.random = randomFrom(options.seed);
    this.words = options.words;
    this.onCrash = options.onCrash;
  }

  get corpusSize(): number {
    return this.corpus.length;
  }

  /** Runs the inputs to begin with, each by itself, and keeps them all. */
  begin(inputs: readonly Uint8Array[]): void {
    this.coverage.merge(this.coverage.take()); // what loading the parser took
    for (const input of inputs) {
      this.execute([input]);
      this.coverage.merge(this.coverage.take());
      this.corpus.push(input);
    }
  }

  /** One batch. Returns whether it found anything new. */
  step(): boolean {
    const batch = Array.from({ length: this.batchSize }, () => this.next());
    const reached = this.reachedBy(batch);
    const isNew = this.coverage.hasNews(reached);
    if (isNew) this.findNews(batch, reached);
    this.batchSize = isNew ? BATCH_MIN : Math.min(BATCH_MAX, this.batchSize * 2);
    return isNew;
  }

  private execute(batch: readonly Uint8Array[]): void {
    this.executions += batch.length;
    for (const { crash, index } of runBatch(this.target, this.parser, batch)) {
      if (this.kinds.has(crash.kind) || this.kinds.size >= KINDS_MAX) continue;
      this.kinds.add(crash.kind);
      this.onCrash(crash, this.shrunk(batch[index], crash));
    }
  }

  private shrunk(input: Uint8Array, { kind }: Crash): Uint8Array {
    if (kind === 'hang' || kind === 'time') return input; // each try would take as long
    return shrink(input, (candidate) => {
      return runAlone(this.target, this.parser, candidate)?.kind === kind;
    });
  }

  private reachedBy(batch: readonly Uint8Array[]): Reached {
    this.coverage.take(); // whatever ran since is nobody's
    this.execute(batch);
    return this.coverage.take();
  }

  /** Halves a batch which has news until each input that brought some stands alone. */
  private findNews(batch: readonly Uint8Array[], reached: Reached): void {
    if (batch.length === 1) {
      this.coverage.merge(reached);
      this.corpus.push(batch[0]);
      this.added.push(batch[0]);
      return;
    }
    const middle = batch.length >> 1;
    for (const half of [batch.slice(0, middle), batch.slice(middle)]) {
      const again = this.reachedBy(half);
      if (this.coverage.hasNews(again)) this.findNews(half, again);
    }
    // What a parser does once only, or only after another input, belongs to none of them.
    this.coverage.merge(reached);
  }

  private pick(): Uint8Array {
    const { corpus, random } = this;
    if (corpus.length === 0) return new Uint8Array(0);
    const recent = Math.min(RECENT, corpus.length);
    return random(2) ? corpus[random(corpus.length)] : corpus[corpus.length - 1 - random(recent)];
  }

  private next(): Uint8Array {
    const { parser, random, words } = this;
    const input = this.pick();
    const { mutate } = parser;
    let changed = input;
    if (mutate && random(STRUCTURED_OF) === 0) {
      for (let left = 1 + random(3); left > 0; left--) changed = mutate(copyOf(changed), random);
    } else {
      changed = havoc(input, random, { words, other: this.pick() });
    }
    return copyOf(changed.subarray(0, this.target.inputBytesMax));
  }
}
