// WebAssembly text as a tree, for tools that rewrite the core: what binaryen prints, and no more.
import { FaradayError } from '../host/errors.ts';

/** An atom, or a list of nodes: `(i32.const 1)` is ['i32.const', '1']. */
export type Node = string | Node[];

const TOKEN = /"(?:[^"\\]|\\.)*"|[()]|;;[^\n]*|[^\s()"]+/g;

/** Takes a module apart. Throws an internal error where it is none. */
export function parseWat(text: string): Node[] {
  const open: Node[][] = [[]];
  for (const [token] of text.matchAll(TOKEN)) {
    if (token.startsWith(';;')) continue;
    if (token === '(') open.push([]);
    else if (token !== ')') open.at(-1)?.push(token);
    else {
      const list = open.pop();
      open.at(-1)?.push(list as Node);
    }
  }
  const [roots] = open;
  const module = roots?.[0];
  if (open.length !== 1 || !Array.isArray(module) || module[0] !== 'module') {
    throw new FaradayError('internal', 'this text is no WebAssembly module');
  }
  return module;
}

export function printWat(node: Node): string {
  return typeof node === 'string' ? node : `(${node.map(printWat).join(' ')})`;
}

/** The operator of a list, or '' for an atom. */
export function operator(node: Node | undefined): string {
  return Array.isArray(node) && typeof node[0] === 'string' ? node[0] : '';
}

/** The first list among `nodes` with that operator. */
export function find(nodes: readonly Node[], name: string): Node[] | undefined {
  return nodes.find((node) => operator(node) === name) as Node[] | undefined;
}
