// Builds build/fuzz.wasm and build/fuzz-compare.wasm: the release core, instrumented, joined with
// the fuzz machine (fuzz/machine/) into one module, so that a whole run needs no step outside of
// it; and build/fuzz-edges.json, which says what each edge is. docs/fuzzing.md.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import binaryen from 'assemblyscript/binaryen';
import { CAGE_MEMORY_BYTES, INBOX, OUTBOX } from '../assembly/abi.ts';
import { DIRTY, DIRTY_SHIFT, EDGES, EDGES_MAX, MEMORY_PAGES } from '../fuzz/machine/shared.ts';
import { FaradayError } from '../host/errors.ts';
import { REPOSITORY } from './cache.ts';
import { run } from './command.ts';
import { type Edge, instrument, memoryOf } from './instrument.ts';
import { type Node, operator, parseWat, printWat } from './wat.ts';

const MACHINE = '$machine/'; // before the names of the machine's own functions, globals and types

/** Which of the machine's exports each import of the core is. */
const ACCESSORS: Record<string, string> = {
  read: 'guestRead',
  write: 'guestWrite',
  load16: 'guestLoad16',
  store16: 'guestStore16',
  fence: 'guestFence',
};
const HOOKS = ['outside', 'bulkFill', 'bulkCopy', 'compare'];

/** Compiles the machine by itself, with imports where the core will be. */
async function compileMachine(): Promise<Node[]> {
  const folder = mkdtempSync(join(tmpdir(), 'faraday-fuzz-'));
  try {
    const text = join(folder, 'machine.wat');
    const asc = join(REPOSITORY, 'node_modules/assemblyscript/bin/asc.js');
    const flags = ['--runtime', 'stub', '--use', 'abort=', '--optimizeLevel', '3', '--converge'];
    const memory = ['--importMemory', '--initialMemory', String(MEMORY_PAGES)];
    const entry = join(REPOSITORY, 'fuzz/machine/index.ts');
    const args = [asc, entry, ...flags, ...memory, '--textFile', text];
    // In a folder of its own: asc would merge the settings of the core's.
    const result = await run(process.execPath, args, {
      cwd: folder,
      env: { NODE_EXTRA_CA_CERTS: undefined },
      acceptStatus: [1],
    });
    if (result.status !== 0) {
      const output = `${result.stdout}${result.stderr}`.trim();
      throw new FaradayError('internal', `the fuzz machine does not compile:\n${output}`);
    }
    return parseWat(binaryen.parseText(readFileSync(text, 'utf8')).emitText());
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const unquoted = (node: Node | undefined): string => String(node).replaceAll('"', '');

/** Renames everything of the machine, and binds what it imports to the core. */
function prefixed(node: Node, imports: ReadonlyMap<string, string>): Node {
  if (typeof node !== 'string') return node.map((child) => prefixed(child, imports));
  if (!node.startsWith('$')) return node;
  return imports.get(node) ?? MACHINE + node.slice(1);
}

/** The internal name of an export of the core's or the machine's. */
function exportedAs(module: readonly Node[], name: string): string {
  for (const node of module) {
    if (operator(node) !== 'export' || unquoted(node[1]) !== name) continue;
    return String((node[2] as Node[])[1]);
  }
  throw new FaradayError('internal', `the fuzz machine looks for an export '${name}'`);
}

function isMemoryExport(node: Node): boolean {
  return operator(node) === 'export' && operator((node as Node[])[2]) === 'memory';
}

/** Joins both modules; `core` is instrumented already. */
function joined(core: Node[], machine: Node[]): Node[] {
  const bound = new Map<string, string>();
  const kept = machine.slice(1).filter((node) => {
    const name = operator(node);
    if (name === 'import') {
      const [, from, what, inner] = node as Node[];
      if (unquoted(from) !== 'core') return false;
      const name = unquoted(what);
      const target = name === 'stepsLeft' ? '$steps-left-now' : exportedAs(core, name);
      bound.set(String((inner as Node[])[1]), target);
      return false;
    }
    return name !== 'memory' && !isMemoryExport(node);
  });
  const renamed = kept.map((node) => prefixed(node, bound));
  const hooks = new Map<string, string>();
  for (const hook of [...HOOKS, ...Object.values(ACCESSORS)]) {
    hooks.set(hook, exportedAs(['module', ...renamed], hook));
  }
  const accessors = new Map<string, string>();
  const own = core.slice(1).filter((node) => {
    const name = operator(node);
    if (name === 'import') {
      const [, , what, inner] = node as Node[];
      accessors.set(String((inner as Node[])[1]), hooks.get(ACCESSORS[unquoted(what)]) as string);
    }
    return name !== 'import' && !isMemoryExport(node);
  });
  for (const hook of HOOKS) accessors.set(`$${hook}`, hooks.get(hook) as string);
  const linked = own.map((node) => replaced(node, accessors));
  const stepsLeft: Node[] = [
    'func',
    '$steps-left-now',
    ['result', 'i32'],
    ['global.get', '$steps-left'],
  ];
  const memory: Node[] = ['export', '"memory"', ['memory', memoryOf(core)[1]]];
  return ['module', ...linked, stepsLeft, ...renamed, memory];
}

function replaced(node: Node, names: ReadonlyMap<string, string>): Node {
  if (typeof node === 'string') return names.get(node) ?? node;
  return node.map((child) => replaced(child, names));
}

export interface FuzzModule {
  wasm: Uint8Array;
  edges: Edge[];
  fixedBlocks: number[]; // of memory, that the core writes by fixed address
}

let machineOnce: Promise<Node[]> | undefined;

/** The fuzz module around a core, given in its text form. */
export async function buildFuzzModule(coreWat: string, comparisons = false): Promise<FuzzModule> {
  machineOnce ??= compileMachine();
  const machine = await machineOnce;
  const core = parseWat(coreWat);
  const memory = memoryOf(core);
  memory.splice(2, 2, String(MEMORY_PAGES), String(MEMORY_PAGES));
  const { edges, fixedStores } = instrument(core, {
    edgesAt: EDGES,
    memory: {
      ...{ dirtyAt: DIRTY, blockShift: DIRTY_SHIFT },
      ...{ loadFrom: INBOX, storeFrom: OUTBOX, end: CAGE_MEMORY_BYTES },
    },
    comparisons,
  });
  if (edges.length > EDGES_MAX) throw new FaradayError('internal', `${edges.length} edges`);
  const module = binaryen.parseText(printWat(joined(core, machine)));
  module.setFeatures(binaryen.Features.All);
  if (!module.validate()) throw new FaradayError('internal', 'the fuzz module is not valid');
  const fixedBlocks = [...new Set(fixedStores.map((address) => address >> DIRTY_SHIFT))];
  return { wasm: module.emitBinary(), edges, fixedBlocks };
}

/** Brings both modules and the list of edges up to date. */
export async function buildFuzz(): Promise<void> {
  const wat = readFileSync(join(REPOSITORY, 'build/core.wat'), 'utf8');
  const { wasm, edges, fixedBlocks } = await buildFuzzModule(wat);
  const build = join(REPOSITORY, 'build');
  writeFileSync(join(build, 'fuzz.wasm'), wasm);
  writeFileSync(join(build, 'fuzz-compare.wasm'), (await buildFuzzModule(wat, true)).wasm);
  writeFileSync(join(build, 'fuzz-edges.json'), JSON.stringify({ edges, fixedBlocks }));
}
