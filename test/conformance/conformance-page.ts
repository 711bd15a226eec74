// The page docs/conformance.md, made of the conformance table. Run by itself it writes the page.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { REPOSITORY } from '../../tools/cache.ts';
import { type Chapter, idOf, type Row, type Section } from './statement.ts';
import { CHAPTERS } from './table.ts';

const PAGE = join(REPOSITORY, 'docs/conformance.md');
const START = '<!-- made by test/conformance/conformance-page.ts -->';
const END = '<!-- end -->';

// What a row can be, in the columns of the count.
const STANDINGS = ['shown', 'not applicable', 'not visible', 'gap'] as const;
type Standing = (typeof STANDINGS)[number];

function standing(row: Row): Standing {
  if ('gap' in row) return 'gap';
  if ('notApplicable' in row) return 'not applicable';
  return 'unseen' in row ? 'not visible' : 'shown';
}

const testOf = (name: string): string => {
  const [file] = name.split(': ');
  return `\`${file}\``;
};

/** How the row stands, and what a driver gets that breaks it. */
function standsAs(row: Row): string {
  if ('gap' in row) return `**gap**: ${row.gap}`;
  if ('notApplicable' in row) return `not applicable: ${row.notApplicable}`;
  if ('unseen' in row) return `not visible: ${row.unseen}`;
  const shown = row.also === undefined ? 'shown' : `shown, with ${testOf(row.also)}`;
  return row.answer === undefined ? shown : `shown: ${row.answer}`;
}

const line = (cells: (string | number)[]): string => `| ${cells.join(' | ')} |`;

function count(title: string, chapters: Chapter[]): string {
  const rows = chapters.flatMap((chapter) => chapter.sections.flatMap((section) => section.rows));
  const numbers = STANDINGS.map((one) => rows.filter((row) => standing(row) === one).length);
  return line([title, ...numbers, rows.length]);
}

function summary(): string {
  const head = ['sections', ...STANDINGS, 'all'];
  return [
    line(head),
    `|${'---|'.repeat(head.length)}`,
    ...CHAPTERS.map((chapter) => count(chapter.title, [chapter])),
    count('**all**', CHAPTERS),
  ].join('\n');
}

/** What is not kept, once more in one place. */
function gaps(): string {
  const sections = CHAPTERS.flatMap((chapter) => chapter.sections);
  const lines = sections.flatMap((section) =>
    section.rows.flatMap((row) =>
      'gap' in row ? [`- ${idOf(section, row)} (${row.level}): ${row.gap}`] : [],
    ),
  );
  return ['The gaps:', '', ...(lines.length > 0 ? lines : ['- none'])].join('\n');
}

function sectionTable(section: Section): string {
  return [
    `### §${section.number} ${section.title}: ${section.side}`,
    '',
    line(['id', 'level', 'statement', 'how it stands']),
    '|---|---|---|---|',
    ...section.rows.map((row) => line([idOf(section, row), row.level, row.says, standsAs(row)])),
    '',
  ].join('\n');
}

const chapterText = ({ title, sections }: Chapter): string =>
  [`## ${title}`, '', ...sections.map(sectionTable)].join('\n');

/** The page as it is, and as it should be. */
export function conformancePage(): { is: string; should: string } {
  const is = readFileSync(PAGE, 'utf8');
  const [before, rest = ''] = is.split(START);
  const after = rest.split(END)[1] ?? '';
  const tables = [summary(), '', gaps(), '', ...CHAPTERS.map(chapterText)].join('\n');
  return { is, should: `${before}${START}\n\n${tables}\n${END}${after}` };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(PAGE, conformancePage().should);
}
