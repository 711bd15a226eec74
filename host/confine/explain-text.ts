// The policy of a run (explain-sandbox.ts) as text for a terminal: sections, and tables whose last
// column wraps.
import type { Sandbox } from './explain-sandbox.ts';

const WIDTH = 98;
const INDENT = '  ';
const CALL_WIDTH_MAX = 40;

/** Words in lines of at most `width` characters; a longer word has a line of its own. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) {
      lines[lines.length - 1] = `${last} ${word}`;
    } else lines.push(word);
  }
  return lines;
}

/** Rows of cells, aligned. */
function table(rows: readonly (readonly string[])[], indent = INDENT): string[] {
  const columns = Math.max(0, ...rows.map((row) => row.length)) - 1;
  const widths = Array.from({ length: columns }, (_, at) => {
    return Math.min(CALL_WIDTH_MAX, Math.max(...rows.map((row) => row[at].length)));
  });
  const left = indent.length + widths.reduce((sum, width) => sum + width + 2, 0);
  return rows.flatMap((row) => {
    const head = widths.map((width, at) => row[at].padEnd(width + 2)).join('');
    const [first = '', ...more] = wrap(row[columns], Math.max(24, WIDTH - left));
    return [`${indent}${head}${first}`, ...more.map((line) => ' '.repeat(left) + line)].map(
      (line) => line.trimEnd(),
    );
  });
}

const list = (text: string): string[] => wrap(text, WIDTH - INDENT.length).map((l) => INDENT + l);

function modeText(mode: string): string {
  if (mode === 'auto') return 'as far as this kernel and this user can (auto)';
  return mode === 'required' ? 'or no start (required)' : mode;
}

function layers(rows: readonly (readonly [string, string])[]): string[] {
  return table(rows);
}

/** What is opened while all of its rights are there yet. */
function beforeText(before: Sandbox['host']['before']): string[] {
  if (before.length === 0) return [];
  const rows = before.map(({ path, reason }) => [path, reason]);
  return [
    '',
    `${INDENT}Opened before it gives anything up, and handed to the cell:`,
    ...table([['path', 'why'], ...rows], `${INDENT}${INDENT}`),
  ];
}

function hostText({ landlock, paths, before, capabilities, threads }: Sandbox['host']): string[] {
  const kept = capabilities.map(({ name, reason }) => `${name} (${reason})`).join('; ');
  const rows = paths.map(({ access, until, path, reason }) => [
    access,
    until,
    `${path}${path.length > CALL_WIDTH_MAX ? ' ' : ''}`,
    reason,
  ]);
  return [
    'FARADAY ITSELF (Node)',
    ...layers([
      ['Landlock', `${modeText(landlock.mode)}: ${landlock.takes.join(', ')}`],
      ['capabilities', `root keeps ${kept || 'none'}`],
      ['no_new_privs', 'always'],
      ...threads.map((text, at) => [at === 0 ? 'threads' : '', text] as const),
    ]),
    '',
    `${INDENT}Paths that stay open to it, and all below them:`,
    ...table([['access', 'until', 'path', 'why'], ...rows], `${INDENT}${INDENT}`),
    '',
    ...list('access: r read and list, w write, c make, rename and remove, x execute, d requests'),
    ...list('to a device; until start: given up once the cell is started'),
    ...beforeText(before),
  ];
}

type Cell = NonNullable<Sandbox['cell']>;

function threadText({ name, what, calls }: Cell['seccomp']['threads'][number]): string[] {
  const rows = calls.map(({ call, caller, reason, only }) => {
    return [call, `${reason} (${caller})${only === null ? '' : `; ${only}`}`];
  });
  return ['', ...list(`Thread '${name}', ${what}:`), ...table(rows, `${INDENT}${INDENT}`)];
}

function cellText(cell: Cell): string[] {
  const { descriptors, user, namespaces, capabilities, landlock, limits, seccomp } = cell;
  return [
    "THE CELL (the guest's process)",
    ...layers([
      ['user', user],
      ['namespaces', `${modeText(namespaces.mode)}: ${namespaces.own.join(', ')}`],
      ['root folder', namespaces.root],
      ['capabilities', capabilities],
      ['Landlock', `${modeText(landlock.mode)}, no path open: ${landlock.takes.join(', ')}`],
      ...limits.map(({ what, limit }) => [what, limit] as const),
      ['seccomp', `${seccomp.mode}: at a call that is not listed ${seccomp.otherwise}`],
    ]),
    '',
    `${INDENT}Descriptors:`,
    ...table(
      [
        ['number', 'until', 'what'],
        ...descriptors.map(({ number, until, what }) => [number, until, what]),
      ],
      `${INDENT}${INDENT}`,
    ),
    ...seccomp.threads.flatMap(threadText),
    '',
    ...list('On any thread these kill the cell at once, where its table does not have them:'),
    ...list(seccomp.deadly.join(' ')),
    '',
    ...list(`Answered as if the kernel did not have it: ${seccomp.unknown.join(' ')}`),
  ];
}

/** Lines for people; `--json` gives the same to programs. */
export function sandboxText(sandbox: Sandbox): string {
  const { off, host, cell } = sandbox;
  const lines = [
    ...(off.length > 0 ? ['WEAKENED BY FLAGS', ...off.flatMap(list), ''] : []),
    ...hostText(host),
    '',
    ...(cell ? cellText(cell) : ['THE CELL', ...list('none with engine v8')]),
  ];
  return `${lines.join('\n')}\n`;
}
