// The core that says which edges of its control flow it takes, to whoever instantiates it
// (test/coverage/hook.mjs); and, from the edges that were taken, which source lines ran.
import binaryen from 'assemblyscript/binaryen';
import { FaradayError } from '../../host/errors.ts';
import { type Edge, instrument } from '../../tools/instrument.ts';
import { firstPlace, type Place, type Places } from '../../tools/source-lines.ts';
import { type Node, operator, parseWat, printWat } from '../../tools/wat.ts';

export interface InstrumentedCore {
  wasm: Uint8Array;
  edges: Edge[];
  /** For each edge the instruction that it leaves. */
  origins: Node[];
  /** The tree of the core as it was. */
  tree: Node[];
}

const EDGE_IMPORT: Node = ['import', '"coverage"', '"edge"', ['func', '$edge', ['param', 'i32']]];

/** Makes the core of a text form (build/core.wat). */
export function instrumentedCore(coreWat: string): InstrumentedCore {
  const module = parseWat(coreWat);
  // The functions are rewritten in place: what they held is kept here.
  const tree = module.map((node) => (operator(node) === 'func' ? [...node] : node));
  const copies = new Map(module.map((node, index) => [node, tree[index]]));
  const { edges, origins } = instrument(module, { edgesAt: null });
  module.splice(1, 0, EDGE_IMPORT);
  const built = binaryen.parseText(printWat(module));
  built.setFeatures(binaryen.Features.All);
  if (!built.validate()) throw new FaradayError('internal', 'the instrumented core is not valid');
  const ours = origins.map((origin) => copies.get(origin) ?? origin);
  return { wasm: built.emitBinary(), edges, origins: ours, tree };
}

const withoutHead = (nodes: readonly Node[]): Node[] =>
  nodes.filter((node) => typeof node !== 'string' && !HEADS.has(operator(node)));
const HEADS = new Set(['type', 'param', 'result', 'local']);

/** Where an edge's condition is in the source; for an entry or a loop, where its body begins. */
export function placeOf(places: Places, edge: Edge, origin: Node): Place | undefined {
  const parts = withoutHead(origin as Node[]);
  const last = edge.kind === 'then' || edge.kind === 'else' ? parts.slice(0, 1) : parts.slice(-1);
  const looked = edge.kind === 'entry' || edge.kind === 'loop' ? parts : last;
  return firstPlace(places, looked) ?? firstPlace(places, [origin]);
}

/** Follows the edges that were taken through one function, and tells every instruction that ran. */
class Walk {
  private live = false;
  private readonly jumps = new Map<string, boolean>(); // labels that a jump was taken to
  private readonly edgesOf: ReadonlyMap<Node, number[]>;
  private readonly taken: (edge: number) => boolean;
  private readonly visit: (node: Node, ran: boolean) => void;

  constructor(
    edgesOf: ReadonlyMap<Node, number[]>,
    taken: (edge: number) => boolean,
    visit: (node: Node, ran: boolean) => void,
  ) {
    this.edgesOf = edgesOf;
    this.taken = taken;
    this.visit = visit;
  }

  function(func: Node[]): void {
    this.live = this.edge(func, 0);
    this.all(withoutHead(func.slice(2)));
  }

  private edge(node: Node, which: number): boolean {
    const edge = this.edgesOf.get(node)?.[which];
    return edge !== undefined && this.taken(edge);
  }

  private all(nodes: readonly Node[]): void {
    for (const node of nodes) this.one(node as Node[]);
  }

  private one(node: Node[]): void {
    const name = operator(node);
    const parts = withoutHead(node.slice(1));
    const labels = node.slice(1).filter((word): word is string => typeof word === 'string');
    if (name === 'if') this.branch(node, parts);
    else if (name === 'block') {
      this.jumps.set(labels[0], false);
      this.all(parts);
      this.live ||= this.jumps.get(labels[0]) === true;
    } else if (name === 'loop') {
      this.live &&= this.edge(node, 0);
      this.all(parts);
    } else {
      this.all(parts);
      this.visit(node, this.live);
      this.jump(node, name, labels);
    }
  }

  private branch(node: Node[], [condition, ...arms]: Node[]): void {
    this.all([condition]);
    this.visit(node, this.live);
    if (!this.edgesOf.has(node)) return; // the step budget's check goes on, or the run is over
    const ends = [0, 1].map((which) => {
      this.live = this.edge(node, which);
      this.all(withoutHead(((arms[which] as Node[] | undefined) ?? ['']).slice(1)));
      return this.live;
    });
    this.live = ends.includes(true);
  }

  private jump(node: Node[], name: string, labels: string[]): void {
    const { live } = this;
    if (name === 'br_table') {
      [...new Set(labels)].forEach((label, which) => {
        if (this.edge(node, which)) this.jumps.set(label, true);
      });
    } else if (name === 'br' || name === 'br_if') {
      const jumps = name === 'br' ? live : this.edge(node, 0);
      if (jumps) this.jumps.set(labels[0], true);
    }
    if (name === 'br_if') this.live = this.edge(node, 1);
    else if (['br', 'br_table', 'return', 'unreachable'].includes(name)) this.live = false;
  }
}

/** Calls `visit` with each instruction of the core, and whether it ran by the edges taken. */
export function eachInstruction(
  { tree, origins }: InstrumentedCore,
  taken: (edge: number) => boolean,
  visit: (node: Node, ran: boolean) => void,
): void {
  const edgesOf = new Map<Node, number[]>();
  origins.forEach((origin, edge) => {
    edgesOf.set(origin, [...(edgesOf.get(origin) ?? []), edge]);
  });
  for (const node of tree) {
    if (operator(node) !== 'func' || String((node as Node[])[1]).startsWith('$entry-')) continue;
    new Walk(edgesOf, taken, visit).function(node as Node[]);
  }
}
