// The page docs/coverage.md, made of a measurement, and what is wrong with one.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { REPOSITORY } from '../../tools/cache.ts';
import type { Measured, MeasuredEdge } from './measure.ts';
import { accountsFor, REASONS } from './reasons.ts';

const PAGE = join(REPOSITORY, 'docs/coverage.md');
const START = '<!-- made by npm run coverage -->';
const END = '<!-- end -->';
const PERCENT_MIN = 98;
const CONDITION_CHARACTERS = 72;

type Counted = Pick<MeasuredEdge, 'byTests' | 'byCorpus'>;
const COLUMNS: [name: string, counts: (edge: Counted) => boolean][] = [
  ['edges', () => true],
  ['by tests', ({ byTests }) => byTests],
  ['by corpus', ({ byCorpus }) => byCorpus],
  ['together', ({ byTests, byCorpus }) => byTests || byCorpus],
];

const row = (cells: (string | number)[]): string => `| ${cells.join(' | ')} |`;
const percent = (part: number, all: number): string => ((100 * part) / all).toFixed(1);
const countOf = (edges: readonly MeasuredEdge[]): number[] =>
  COLUMNS.map(([, counts]) => edges.filter(counts).length);

/** The edges that count: those that lead to more than a trap. */
const counted = ({ edges }: Measured): MeasuredEdge[] => edges.filter(({ trapOnly }) => !trapOnly);
const unreached = (measured: Measured): MeasuredEdge[] =>
  counted(measured).filter(({ byTests, byCorpus }) => !byTests && !byCorpus);

function linesReached(lines: ReadonlyMap<number, boolean>): string {
  return `${[...lines.values()].filter(Boolean).length} of ${lines.size}`;
}

function fileTable(measured: Measured): string {
  const edges = counted(measured);
  const files = [...new Set(edges.map(({ place }) => place.file))].sort();
  const every = new Map(
    [...measured.lines].flatMap(([file, lines]) =>
      [...lines].map(([line, ran]): [string, boolean] => [`${file}:${line}`, ran]),
    ),
  );
  const lines = [...every.values()];
  const all = countOf(edges);
  const head = ['file', ...COLUMNS.map(([name]) => name), 'lines reached'];
  const linesOf = (file: string) => measured.lines.get(file) ?? new Map<number, boolean>();
  return [
    row(head),
    `|${'---|'.repeat(head.length)}`,
    ...files.map((file) => {
      const counts = countOf(edges.filter(({ place }) => place.file === file));
      return row([`\`${file}\``, ...counts, linesReached(linesOf(file))]);
    }),
    row(['all', ...all, `${lines.filter(Boolean).length} of ${lines.length}`]),
    row(['%', '', ...all.slice(1).map((count) => percent(count, all[0])), '']),
  ].join('\n');
}

function shortened(text: string): string {
  const cut =
    text.length > CONDITION_CHARACTERS ? `${text.slice(0, CONDITION_CHARACTERS)} …` : text;
  return `\`${cut.replaceAll('|', '\\|')}\``;
}

function unreachedList(measured: Measured): string {
  const left = unreached(measured);
  const whys = [...new Set(REASONS.map(({ why }) => why))];
  const number = (edge: MeasuredEdge): string => {
    const reason = REASONS.find((one) => accountsFor(one, edge));
    return reason ? String(whys.indexOf(reason.why) + 1) : '**none**';
  };
  const rows = left.map((edge) => {
    const place = `\`${edge.place.file}:${edge.place.line}\``;
    const name = `\`${edge.function.split('/').slice(1).join('/')}\``;
    return row([place, name, edge.kind, shortened(edge.condition), number(edge)]);
  });
  const list = whys.map((why, index) => `${index + 1}. ${why}`);
  const head = ['line', 'compiled into', 'edge', 'condition', 'reason'];
  return [...list, '', row(head), `|${'---|'.repeat(head.length)}`, ...rows].join('\n');
}

function linesLeft({ lines }: Measured): string {
  const places = [...lines].flatMap(([file, ran]) =>
    [...ran].filter(([, reached]) => !reached).map(([line]) => `\`${file}:${line}\``),
  );
  return `Lines not reached: ${places.sort().join(', ') || 'none'}.`;
}

function trapsLeftOut({ edges }: Measured): string {
  const only = edges.filter(({ trapOnly }) => trapOnly);
  const loops = edges.filter(({ kind }) => kind === 'loop').length;
  const list = only.map(({ place, kind }) => `\`${place.file}:${place.line}\` (${kind})`);
  return (
    `Left out, since only a trap follows: the step budget's check of each of the ${loops} loops; ` +
    `beside it ${list.length > 0 ? list.join(', ') : 'no edge'}.`
  );
}

/** The page as it is, and as this measurement makes it. */
export function coveragePage(measured: Measured): { is: string; should: string } {
  const is = readFileSync(PAGE, 'utf8');
  const [before, rest = ''] = is.split(START);
  const after = rest.split(END)[1] ?? '';
  const made = [
    fileTable(measured),
    trapsLeftOut(measured),
    linesLeft(measured),
    '## Not reached, and why',
    unreachedList(measured),
  ].join('\n\n');
  return { is, should: `${before}${START}\n\n${made}\n\n${END}${after}` };
}

export function writePage(measured: Measured): void {
  writeFileSync(PAGE, coveragePage(measured).should);
}

export function summary(measured: Measured): string {
  const [all, ...parts] = countOf(counted(measured));
  const said = parts.map((part, at) => {
    return `${COLUMNS[at + 1][0]} ${part} (${percent(part, all)} %)`;
  });
  return `${all} edges: ${said.join(', ')}`;
}

/** Sentences; none where the coverage is what it has to be. */
export function problems(measured: Measured): string[] {
  const found: string[] = [];
  const left = unreached(measured);
  const all = counted(measured).length;
  if (100 * (all - left.length) < PERCENT_MIN * all) {
    found.push(`${percent(all - left.length, all)} % of the edges are reached, not ${PERCENT_MIN}`);
  }
  for (const edge of left) {
    if (REASONS.some((reason) => accountsFor(reason, edge))) continue;
    const where = `${edge.place.file}:${edge.place.line} (${edge.function}, ${edge.kind})`;
    found.push(`${where} is not reached and has no reason: ${edge.source}`);
  }
  for (const reason of REASONS) {
    const count = left.filter((edge) => accountsFor(reason, edge)).length;
    if (count === reason.edges) continue;
    const which = `${reason.function}, ${reason.file}, '${reason.source}'`;
    found.push(`the reason for ${which} is for ${reason.edges} edges, not ${count}`);
  }
  return found;
}
