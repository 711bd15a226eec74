// Rewrites the core so that a run can be watched (docs/fuzzing.md): a counter on every edge of its
// control flow; for the fuzzer also a check and a mark of every memory access whose address is
// computed, and, in a variant of it, a look at the operands of every comparison.
//
// The input is the module that the release build emits, in its text form (build/core.wat).
import { FaradayError } from '../host/errors.ts';
import { find, type Node, operator } from './wat.ts';

/** What an edge is, for the coverage report. */
export interface Edge {
  function: string; // as the core's text names it: assembly/virtq/virtqWalk
  kind: 'entry' | 'then' | 'else' | 'loop' | 'taken' | 'not taken' | 'case' | 'chosen' | 'other';
  condition: string; // the condition's text, shortened
  trapOnly: boolean; // nothing but a trap follows
}

export interface InstrumentOptions {
  /** Address of the counters, one byte each; null: calls $edge(i32) with the edge's number. */
  edgesAt: number | null;
  /** Checks and marks memory accesses: the functions of the fuzz machine it calls. */
  memory?: {
    dirtyAt: number;
    blockShift: number;
    loadFrom: number;
    storeFrom: number;
    end: number;
  };
  comparisons?: boolean; // calls $compare(u64, u64) with both operands
}

const SIZES: Record<string, number> = { '8': 1, '16': 2, '32': 4 };
const COMPARISON = /^i(32|64)\.(eq|ne|[lg][te]_[us])$/;
const ACCESS = /^i(32|64)\.(load|store)(8|16|32)?(_[us])?$/;
const STEP_CHECK = '(i32.eqz (global.get $steps-left))'; // tools/build-core.ts
const CONDITION_CHARACTERS = 160;

const i32 = (value: number): Node[] => ['i32.const', String(value)];

function textOf(node: Node): string {
  const text = typeof node === 'string' ? node : `(${node.map(textOf).join(' ')})`;
  return text.slice(0, CONDITION_CHARACTERS);
}

class Instrumenter {
  readonly edges: Edge[] = [];
  readonly origins: Node[] = [];
  /** Addresses that stores name outright. */
  readonly fixedStores = new Set<number>();
  private readonly options: InstrumentOptions;
  private name = '';
  private locals: Node[] = [];

  constructor(options: InstrumentOptions) {
    this.options = options;
  }

  /** Rewrites a function in place. */
  rewrite(func: Node[]): void {
    this.name = String(func[1]).slice(1);
    const headers = new Set(['type', 'param', 'result', 'local']);
    const start = func.findIndex((node, at) => at > 1 && !headers.has(operator(node)));
    if (start < 0) return;
    this.locals = [
      ['local', '$cov-condition', 'i32'],
      ['local', '$cov-address', 'i32'],
    ];
    const code = func.splice(start);
    const entry = this.count('entry', func, '', code);
    const body = code.map((node) => this.visit(node));
    func.push(...this.locals, entry, ...body);
  }

  /** Counts one more edge, which leaves `origin`: the statement that does it. */
  private count(
    kind: Edge['kind'],
    origin: Node,
    condition: Node,
    follows: readonly Node[],
  ): Node[] {
    const index = this.edges.length;
    const trapOnly = operator(follows[0]) === 'unreachable';
    this.edges.push({ function: this.name, kind, condition: textOf(condition), trapOnly });
    this.origins.push(origin);
    if (this.options.edgesAt === null) return ['call', '$edge', i32(index)];
    const at = this.options.edgesAt + index;
    return ['i32.store8', i32(at), ['i32.add', ['i32.load8_u', i32(at)], i32(1)]];
  }

  private visit(node: Node): Node {
    if (typeof node === 'string') return node;
    const name = operator(node);
    switch (name) {
      case 'if':
        return this.visitIf(node);
      case 'loop':
        return this.visitLoop(node);
      case 'br_if':
        return this.visitCondition(node, 'taken', 'not taken');
      case 'select':
        return this.visitCondition(node, 'chosen', 'other');
      case 'br_table':
        return this.visitTable(node);
      case 'memory.fill':
      case 'memory.copy':
        return this.visitBulk(node);
    }
    const children = node.map((child) => this.visit(child));
    if (ACCESS.test(name)) return this.access(children);
    if (COMPARISON.test(name)) return this.compare(children);
    return children;
  }

  private visitIf(node: Node[]): Node {
    const thenAt = node.findIndex((child) => operator(child) === 'then');
    const condition = node[thenAt - 1];
    // The step budget's own check is no branch of the core's.
    if (textOf(condition) === STEP_CHECK) return node;
    const head = node.slice(0, thenAt - 1);
    const thenBody = (node[thenAt] as Node[]).slice(1);
    const elseBody = ((node[thenAt + 1] as Node[] | undefined) ?? ['else']).slice(1);
    const looked = this.visit(condition);
    const arms = (['then', 'else'] as const).map((kind) => {
      const body = kind === 'then' ? thenBody : elseBody;
      const count = this.count(kind, node, condition, body);
      return [kind, count, ...body.map((child) => this.visit(child))];
    });
    return [...head, looked, ...arms];
  }

  private visitLoop(node: Node[]): Node {
    const at = node.findIndex((child, index) => index > 0 && isCode(child));
    const code = node.slice(at);
    const round = this.count('loop', node, '', code);
    return [...node.slice(0, at), round, ...code.map((child) => this.visit(child))];
  }

  /** Counts which way the last operand of a br_if or select goes. */
  private visitCondition(node: Node[], yes: Edge['kind'], no: Edge['kind']): Node {
    const children = node.map((child) => this.visit(child));
    const condition = children.pop() as Node;
    const original = node.at(-1) as Node;
    const counted = [
      'block',
      ['result', 'i32'],
      [
        'if',
        ['local.tee', '$cov-condition', condition],
        ['then', this.count(yes, node, original, [])],
        ['else', this.count(no, node, original, [])],
      ],
      ['local.get', '$cov-condition'],
    ];
    return [...children, counted];
  }

  /** Each target gets a landing of its own, which counts and jumps on. */
  private visitTable(node: Node[]): Node {
    const labels = node.filter((child): child is string => typeof child === 'string').slice(1);
    const operands = node.filter((child) => typeof child !== 'string');
    if (operands.length !== 1) throw new FaradayError('internal', 'a br_table with a value');
    const targets = [...new Set(labels)];
    const place = `$cov-case-${this.edges.length}`;
    const landings = new Map(targets.map((label, index) => [label, `${place}-${index}`]));
    const jumps = labels.map((label) => landings.get(label) as string);
    let inner: Node[] = ['br_table', ...jumps, this.visit(operands[0])];
    for (const label of targets) {
      const landed: Node[] = ['block', landings.get(label) as string, inner];
      const count = this.count('case', node, `${textOf(operands[0])} to ${label}`, []);
      inner = ['block', landed, count, ['br', label]];
    }
    return inner;
  }

  private access(node: Node[]): Node {
    const { memory } = this.options;
    if (!memory) return node;
    const [, bits, direction, narrow] = ACCESS.exec(operator(node)) as RegExpExecArray;
    const size = SIZES[narrow ?? ''] ?? Number(bits) / 8;
    const addressAt = node.findIndex((child, index) => index > 0 && isCode(child));
    const offsetText = node.find(
      (child) => typeof child === 'string' && child.startsWith('offset='),
    );
    const offset = offsetText ? Number(String(offsetText).slice('offset='.length)) : 0;
    const address = node[addressAt];
    if (operator(address) === 'i32.const') {
      if (direction === 'store') this.fixedStores.add(Number((address as Node[])[1]) + offset);
      return node;
    }
    const from = direction === 'store' ? memory.storeFrom : memory.loadFrom;
    const checked: Node[] = [
      'block',
      ['result', 'i32'],
      [
        'if',
        [
          'i32.gt_u',
          ['i32.add', ['local.tee', '$cov-address', address], i32(offset - from)],
          i32(memory.end - from - size),
        ],
        ['then', ['call', '$outside', ['local.get', '$cov-address']]],
      ],
    ];
    if (direction === 'store') {
      const block = ['i32.add', ['local.get', '$cov-address'], i32(offset)];
      const shift = ['i32.shr_u', block, i32(memory.blockShift)];
      checked.push(['i32.store8', `offset=${memory.dirtyAt}`, shift, i32(1)]);
    }
    checked.push(['local.get', '$cov-address']);
    return node.map((child, index) => (index === addressAt ? checked : child));
  }

  /** Fills and copies go through the fuzz machine, which checks and marks the whole range. */
  private visitBulk(node: Node[]): Node {
    const children = node.slice(1).map((child) => this.visit(child));
    if (!this.options.memory) return [operator(node), ...children];
    return ['call', operator(node) === 'memory.fill' ? '$bulkFill' : '$bulkCopy', ...children];
  }

  private compare(node: Node[]): Node {
    if (!this.options.comparisons) return node;
    const [, bits] = COMPARISON.exec(operator(node)) as RegExpExecArray;
    const [left, right] = node.slice(1);
    const places = ['left', 'right'].map((side) => `$cov-${side}-${this.locals.length}`);
    for (const place of places) this.locals.push(['local', place, `i${bits}`]);
    const wide = (value: Node): Node => (bits === '32' ? ['i64.extend_i32_u', value] : value);
    const looked = [left, right].map((value, side) => wide(['local.tee', places[side], value]));
    const again = places.map((place) => ['local.get', place]);
    const result = ['result', 'i32'];
    return ['block', result, ['call', '$compare', ...looked], [operator(node), ...again]];
  }
}

function isCode(node: Node): boolean {
  return Array.isArray(node) && !['result', 'param', 'type'].includes(operator(node));
}

export interface Instrumented {
  edges: Edge[];
  /** For each edge the node of the module, as it was, that it leaves. */
  origins: Node[];
  /** Where stores with a fixed address go. */
  fixedStores: number[];
}

/** Rewrites every function of `module` in place, but the entries that set the step budget. */
export function instrument(module: Node[], options: InstrumentOptions): Instrumented {
  const instrumenter = new Instrumenter(options);
  for (const node of module) {
    if (operator(node) !== 'func' || String((node as Node[])[1]).startsWith('$entry-')) continue;
    instrumenter.rewrite(node as Node[]);
  }
  return {
    edges: instrumenter.edges,
    origins: instrumenter.origins,
    fixedStores: [...instrumenter.fixedStores].sort((a, b) => a - b),
  };
}

/** The module's memory, to be given more pages: the core has no more than it had. */
export function memoryOf(module: Node[]): Node[] {
  const memory = find(module, 'memory');
  if (!memory) throw new FaradayError('internal', 'the core has no memory');
  return memory;
}
