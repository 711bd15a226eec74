// The fuzz modules that the build made, read from build/.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Edge } from '../tools/instrument.ts';
import { type FuzzModules, fuzzModules } from './engine.ts';

const BUILD = join(import.meta.dirname, '../build');

export interface EdgeList {
  edges: Edge[];
  fixedBlocks: number[];
}

/** What each edge of the instrumented core is. */
export function loadEdges(): EdgeList {
  return JSON.parse(readFileSync(join(BUILD, 'fuzz-edges.json'), 'utf8'));
}

export function loadModules(): FuzzModules {
  const module = (name: string) => new WebAssembly.Module(readFileSync(join(BUILD, name)));
  return fuzzModules(module('fuzz.wasm'), module('fuzz-compare.wasm'), loadEdges());
}
