// The page docs/attacks.md, made of the table of attacks. Run by itself it writes the page.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { REPOSITORY } from '../../tools/cache.ts';
import { ATTACKS, type Attack, COLUMNS, type Column, expected, type Outcome } from './attacks.ts';

const PAGE = join(REPOSITORY, 'docs/attacks.md');
const LANDLOCK_ABI = 7; // the page is about a kernel that has all of it
const START = '<!-- made by test/attack/attack-page.ts -->';
const END = '<!-- end -->';

const GROUPS: Record<Attack['group'], string> = {
  files: 'Files',
  processes: 'Other processes',
  code: 'New processes, new code',
  rights: 'Rights, limits, other doors into the kernel',
  kernel: 'Large interfaces of the kernel',
  kvm: 'KVM and devices',
  network: 'Network and sockets',
  control: 'The control socket',
};

const HEADS: Record<Column, string> = {
  none: 'no layer',
  seccomp: 'seccomp',
  landlock: 'Landlock',
  namespaces: 'namespaces',
  user: 'user, rights',
  limits: 'limits',
  all: 'all',
};

const one = (text: string): string =>
  text
    .split(' or ')
    .map((word) => (word === 'OK' ? '**done**' : /^(kill|trap)/.test(word) ? word : `\`${word}\``))
    .join(' or ');

function cell(outcome: Outcome): string {
  if (typeof outcome === 'string') return one(outcome);
  const [vcpu, io] = outcome;
  return vcpu === io ? one(vcpu) : `${one(vcpu)} / ${one(io)}`;
}

function row(attack: Attack): string {
  const outcomes = COLUMNS.map((column) => cell(expected(attack, column, LANDLOCK_ABI)));
  const words = attack.note ? `${attack.tries}<br>*${attack.note}*` : attack.tries;
  return `| \`${attack.name}\` | ${words} | ${outcomes.join(' | ')} |`;
}

/** The tables, group by group. */
function tables(): string {
  const heads = ['attack', 'what it tries', ...COLUMNS.map((column) => HEADS[column])];
  const top = [`| ${heads.join(' | ')} |`, `|${'---|'.repeat(heads.length)}`];
  return Object.entries(GROUPS)
    .map(([group, title]) => {
      const rows = ATTACKS.filter((attack) => attack.group === group).map(row);
      return [`### ${title}`, '', ...top, ...rows, ''].join('\n');
    })
    .join('\n');
}

/** The page as it is, and as it should be. */
export function attackPage(): { is: string; should: string } {
  const is = readFileSync(PAGE, 'utf8');
  const [before, rest = ''] = is.split(START);
  const after = rest.split(END)[1] ?? '';
  return { is, should: `${before}${START}\n\n${tables()}\n${END}${after}` };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(PAGE, attackPage().should);
