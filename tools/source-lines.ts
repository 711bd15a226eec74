// Where in assembly/ the core's instructions come from, for docs/coverage.md. The compiler prints
// that into one of its text forms, with which the core as it was built is laid side by side: both
// are the same code but for the step counter and the names and places of a few locals.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FaradayError } from '../host/errors.ts';
import { REPOSITORY } from './cache.ts';
import { run } from './command.ts';
import { type Node, operator, parseWat } from './wat.ts';

export interface Place {
  file: string; // assembly/virtq.ts
  line: number;
}

/** The place of each instruction that has one. */
export type Places = ReadonlyMap<Node, Place>;

const LOCATION = '@'; // the operator that stands for a location among the nodes
const NO_CODE = new Set(['type', 'param', 'result', 'local', 'then', 'else', LOCATION]);
const MATCHED_MIN = 0.9; // of a function's instructions: fewer, and the texts are of two cores

/** Compiles assembly/ once more, into the text form that has locations (`.wast`). */
async function locatedText(): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'faraday-lines-'));
  try {
    const asc = join(REPOSITORY, 'node_modules/assemblyscript/bin/asc.js');
    const [wasm, text] = [join(folder, 'core.wasm'), join(folder, 'core.wast')];
    const flags = ['--target', 'release', '--outFile', wasm, '--textFile', text, '--sourceMap'];
    await run(process.execPath, [asc, ...flags], {
      cwd: REPOSITORY,
      env: { NODE_EXTRA_CA_CERTS: undefined },
    });
    return readFileSync(text, 'utf8');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** One instruction in the order of the text. */
interface Instruction {
  token: string; // what must be the same on both sides: no local, label or type has its name in it
  node: Node[];
  place: Place | undefined;
}

function isStep(node: Node): boolean {
  if (operator(node) === 'global.set') return (node as Node[])[1] === '$steps-left';
  if (operator(node) !== 'if') return false;
  const [, condition] = node as Node[];
  return operator(condition) === 'i32.eqz' && operator((condition as Node[])[1]) === 'global.get';
}

/** The instructions of a function; a location stands before the first that it is of. */
function instructionsOf(func: readonly Node[]): Instruction[] {
  const found: Instruction[] = [];
  let place: Place | undefined;
  let last: Place | undefined;
  const walk = (nodes: readonly Node[]): void => {
    for (const node of nodes) {
      if (typeof node === 'string' || isStep(node)) continue;
      const name = operator(node);
      if (name === LOCATION) {
        const [file, line] = String(node[1] ?? '').split(':');
        place = line === undefined ? undefined : { file, line: Number(line) };
        last = place ?? last;
      } else if (!NO_CODE.has(name)) {
        const words = node.slice(1).filter((word) => typeof word === 'string');
        const kept = words.filter((word) => !word.startsWith('$') || name === 'call');
        // A jump table often has no place of its own: then what stands before it has to do.
        const near = name === 'br_table' ? last : undefined;
        found.push({ token: [name, ...kept].join(' '), node, place: place ?? near });
      }
      walk(node);
    }
  };
  walk(func);
  return found;
}

/** Pairs of indexes of the longest common subsequence of both lists. */
function aligned(one: readonly Instruction[], other: readonly Instruction[]): [number, number][] {
  const width = other.length + 1;
  const lengths = new Uint16Array((one.length + 1) * width); // of what is common from there on
  for (let i = one.length - 1; i >= 0; i--) {
    for (let j = other.length - 1; j >= 0; j--) {
      const at = i * width + j;
      lengths[at] =
        one[i].token === other[j].token
          ? lengths[at + width + 1] + 1
          : Math.max(lengths[at + width], lengths[at + 1]);
    }
  }
  const pairs: [number, number][] = [];
  for (let i = 0, j = 0; i < one.length && j < other.length; ) {
    const at = i * width + j;
    if (one[i].token === other[j].token) pairs.push([i++, j++]);
    else if (lengths[at + width] >= lengths[at + 1]) i++;
    else j++;
  }
  return pairs;
}

function functionsOf(module: readonly Node[]): Map<string, Node[]> {
  const functions = module.filter((node) => operator(node) === 'func') as Node[][];
  return new Map(functions.map((func) => [String(func[1]), func]));
}

/** Lays a core (the tree of build/core.wat) beside its text with locations. */
export function placesIn(core: readonly Node[], located: string): Places {
  const marked = located.replace(/;;@[ ]?(\S*)$/gm, (_, place: string) => `(${LOCATION} ${place})`);
  const sources = functionsOf(parseWat(marked));
  const places = new Map<Node, Place>();
  for (const [name, func] of functionsOf(core)) {
    if (name.startsWith('$entry-')) continue;
    const ours = instructionsOf(func);
    const theirs = instructionsOf(sources.get(name) ?? []);
    const pairs = aligned(ours, theirs);
    if (pairs.length < MATCHED_MIN * Math.max(ours.length, theirs.length)) {
      throw new FaradayError('internal', `${name} is not what assembly/ compiles to: build again`);
    }
    for (const [our, their] of pairs) {
      const { place } = theirs[their];
      if (place) places.set(ours[our].node, place);
    }
  }
  return places;
}

/** Where each instruction of a core comes from; `core` is the tree of build/core.wat. */
export async function findPlaces(core: readonly Node[]): Promise<Places> {
  return placesIn(core, await locatedText());
}

/** The first place among these nodes and what they hold, in the order of the text. */
export function firstPlace(places: Places, nodes: readonly Node[]): Place | undefined {
  for (const node of nodes) {
    if (typeof node === 'string') continue;
    const place = places.get(node) ?? firstPlace(places, node);
    if (place) return place;
  }
  return undefined;
}
