// Measures which edges of the core are reached: by its tests, run on an instrumented core, and by
// the fuzzer's corpus, run on the fuzz modules, whose edges are the same.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CORPUS_FOLDER, readPrograms } from '../../fuzz/corpus.ts';
import { Machine } from '../../fuzz/engine.ts';
import { loadEdges, loadModules } from '../../fuzz/load.ts';
import { DEVICE_TARGETS } from '../../fuzz/targets.ts';
import { FaradayError } from '../../host/errors.ts';
import { REPOSITORY } from '../../tools/cache.ts';
import type { Edge } from '../../tools/instrument.ts';
import { findPlaces, type Place, type Places } from '../../tools/source-lines.ts';
import {
  eachInstruction,
  type InstrumentedCore,
  instrumentedCore,
  placeOf,
} from './instrumented-core.ts';
import { runOnCore } from './replaced-core.ts';

export interface MeasuredEdge extends Edge {
  place: Place;
  source: string; // the text of that line
  byTests: boolean;
  byCorpus: boolean;
}

export interface Measured {
  edges: MeasuredEdge[];
  /** For each file of assembly/ the lines that instructions come from: whether one of them ran. */
  lines: Map<string, Map<number, boolean>>;
}

type Reached = (edge: number) => boolean;

/** Runs the tests; throws where one fails, since it then did not do all that it does. */
async function reachedByTests(wasm: Uint8Array): Promise<Reached> {
  const folder = mkdtempSync(join(tmpdir(), 'faraday-coverage-'));
  try {
    const path = join(folder, 'core.wasm');
    writeFileSync(path, wasm);
    const output = await runOnCore(path, folder);
    const last = output.trim().split('\n').at(-1) ?? '';
    if (!/^\d+ passed, 0 failed/.test(last)) {
      throw new FaradayError('internal', `tests fail on the instrumented core:\n${output}`);
    }
    const names = readdirSync(folder).filter((name) => name.endsWith('.edges'));
    const sets = names.map((name) => readFileSync(join(folder, name)));
    return (edge) => sets.some((set) => set[edge] === 1);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Runs the corpus of the repository; what searches on this machine added does not count. */
function reachedByCorpus(): Reached {
  const modules = loadModules();
  const sets = DEVICE_TARGETS.map((target) => {
    const machine = new Machine(modules.fast, modules, target);
    const programs = readPrograms(join(CORPUS_FOLDER, `${target.name}.txt`));
    for (const program of programs) {
      if (program.variant < target.variants.length) machine.run(program);
    }
    return machine.coverage();
  });
  return (edge) => sets.some((set) => set[edge] !== 0);
}

/** Which source lines ran, all tests and programs taken together. */
function linesOf(core: InstrumentedCore, places: Places, taken: Reached): Measured['lines'] {
  const lines: Measured['lines'] = new Map();
  eachInstruction(core, taken, (node, ran) => {
    const place = places.get(node);
    if (!place) return;
    const file = lines.get(place.file) ?? new Map<number, boolean>();
    file.set(place.line, ran || file.get(place.line) === true);
    lines.set(place.file, file);
  });
  return lines;
}

/** The text of a source line, without its indentation. */
function sourceReader(): (place: Place) => string {
  const files = new Map<string, string[]>();
  return ({ file, line }) => {
    const lines = files.get(file) ?? readFileSync(join(REPOSITORY, file), 'utf8').split('\n');
    files.set(file, lines);
    return (lines[line - 1] ?? '').trim();
  };
}

/** Measures all of it. Throws an internal error where a test fails, or the build is not one. */
export async function measure(): Promise<Measured> {
  const core = instrumentedCore(readFileSync(join(REPOSITORY, 'build/core.wat'), 'utf8'));
  if (JSON.stringify(core.edges) !== JSON.stringify(loadEdges().edges)) {
    throw new FaradayError('internal', "the fuzz modules are another core's: run npm run build");
  }
  const places = await findPlaces(core.tree);
  const byCorpus = reachedByCorpus();
  const byTests = await reachedByTests(core.wasm);
  const read = sourceReader();
  const edges = core.edges.map((edge, index) => {
    const place = placeOf(places, edge, core.origins[index]);
    if (!place) throw new FaradayError('internal', `no source of an edge of ${edge.function}`);
    const reached = { byTests: byTests(index), byCorpus: byCorpus(index) };
    return { ...edge, place, source: read(place), ...reached };
  });
  const lines = linesOf(core, places, (edge) => byTests(edge) || byCorpus(edge));
  return { edges, lines };
}
