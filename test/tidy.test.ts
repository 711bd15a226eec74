// House style as a test: what CONTRIBUTING.md asks of every file, checked over the whole tree.

import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join, normalize } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const ROOT = normalize(join(import.meta.dirname, '..'));
const LINE_MAX = 100;
const FILE_LINES_MAX = 400;
const FUNCTION_LINES_MAX = 70;

// Files git knows, and those it would take: the tree as the next commit sees it.
const FILES = execFileSync('git', ['ls-files', '-co', '--exclude-standard'], { cwd: ROOT })
  .toString()
  .split('\n')
  .filter((file) => file !== '' && existsSync(join(ROOT, file)));

const read = (file: string) => readFileSync(join(ROOT, file), 'utf8');
const matching = (pattern: RegExp) => FILES.filter((file) => pattern.test(file));

const SOURCES = matching(/\.(ts|mjs|js|c|h|cc)$/);
const CORE = matching(/^assembly\/.*\.ts$/);
const TESTS = matching(/^test\/[^/]*\.test\.ts$/);
const DOCS = matching(/\.md$/);

/** Every line of every source that breaks a rule, as 'file:line: text'. */
function offenders(files: string[], breaks: (line: string) => boolean): string[] {
  return files.flatMap((file) =>
    read(file)
      .split('\n')
      .flatMap((line, i) => (breaks(line) ? [`${file}:${i + 1}: ${line.trim()}`] : [])),
  );
}

test('the tree is found: this test would pass on nothing', () => {
  assert.ok(SOURCES.length > 50, `${SOURCES.length} sources`);
  assert.ok(CORE.length > 10 && TESTS.length > 10 && DOCS.length > 8);
});

test('lines have at most 100 columns', () => {
  assert.equal(
    offenders(SOURCES, (line) => line.length > LINE_MAX),
    [],
  );
});

test('files have at most 400 lines', () => {
  const long = SOURCES.filter((file) => !file.startsWith('test/')).filter(
    (file) => read(file).split('\n').length > FILE_LINES_MAX + 1,
  );
  assert.equal(long, []);
});

/** Lengths of functions whose opening line is recognisable and whose end keeps its indentation. */
function longFunctions(file: string): string[] {
  const lines = read(file).split('\n');
  const found: string[] = [];
  lines.forEach((line, start) => {
    const opens = /^(\s*)(export |async |static |private |@inline )*(function \w+|\w+\()[^;]*\{$/;
    const indent = opens.exec(line)?.[1];
    if (indent === undefined) return;
    const end = lines.findIndex((other, i) => i > start && other === `${indent}}`);
    if (end - start + 1 > FUNCTION_LINES_MAX) found.push(`${file}:${start + 1}`);
  });
  return found;
}

test('functions have at most 70 lines', () => {
  const sources = SOURCES.filter((file) => !file.startsWith('test/'));
  assert.equal(sources.flatMap(longFunctions), []);
});

test('every source opens with a comment that says what it is', () => {
  const bare = SOURCES.filter((file) => !/^(#!.*\n)?(\/\/|\/\*)/.test(read(file)));
  assert.equal(bare, []);
});

test('no source has a type that checks nothing', () => {
  const typed = matching(/^(host|testing|test|bench|tools|fuzz)\/.*\.ts$/);
  const nothing = new RegExp(`(: |<|as )an${'y'}([;,)>\\]=|]|$)`);
  assert.equal(
    offenders(typed, (line) => nothing.test(line)),
    [],
  );
});

test('no bare marker of unfinished work', () => {
  const marker = new RegExp(
    `\\b(${['TO_DO', 'FIX_ME', 'XX_X'].map((word) => word.replace('_', '')).join('|')})\\b`,
  );
  assert.equal(
    offenders(SOURCES, (line) => marker.test(line)),
    [],
  );
});

test('the core has no clock, no randomness, no heap and no exceptions', () => {
  const banned = /Math\.random|\bDate\b|\bnew \w|\bthrow\b|\bMap<|\bstring\b|changetype<string>/;
  const code = (line: string) => line.replace(/\/\/.*$/, '');
  assert.equal(
    offenders(CORE, (line) => banned.test(code(line))),
    [],
  );
});

test('only guest.ts declares imports of the core', () => {
  assert.equal(
    CORE.filter((file) => read(file).includes('@external')),
    ['assembly/guest.ts'],
  );
});

test('protocol files of the core name their specification', () => {
  const protocol = CORE.filter((file) => /virt|serial|i8042|rtc|acpi|pvpanic/.test(file));
  const silent = protocol.filter(
    (file) => !/§|[Ss]ection|datasheet|specification/.test(read(file)),
  );
  assert.equal(silent, []);
});

test('one door: only host/core.ts loads the .wasm, only host/shim.ts the .node file', () => {
  const host = matching(/^host\/.*\.ts$/);
  const loads = (what: string) => host.filter((file) => read(file).includes(what));
  assert.equal(loads('core.wasm'), ['host/core.ts']);
  assert.equal(loads('faraday.node'), ['host/shim.ts']);
});

test('host/ loads nothing of testing/, where only node.ts names Node', () => {
  const inHost = matching(/^host\/.*\.ts$/);
  assert.equal(
    offenders(inHost, (line) => /from '[./]*\/testing\//.test(line)),
    [],
  );
  const inTesting = matching(/^testing\/.*\.ts$/).filter((file) => file !== 'testing/node.ts');
  assert.equal(
    offenders(inTesting, (line) => line.includes("'node:")),
    [],
  );
});

test('only host/cli, host/main.ts and host/log.ts print, and none exits the process', () => {
  const below = matching(/^host\/.*\.ts$/).filter(
    (file) => !/^host\/(cli\/|main\.ts|log\.ts)/.test(file),
  );
  const prints = /console\.(log|error|warn)|process\.(stdout|stderr)\.write|print(Output|Error)\(/;
  assert.equal(
    offenders(below, (line) => prints.test(line)),
    [],
  );
  assert.equal(
    offenders(matching(/^host\//), (line) => line.includes('process.exit(')),
    [],
  );
});

test('every test file runs its tests', () => {
  assert.equal(
    TESTS.filter((file) => !/^test\.run\(\);$/m.test(read(file))),
    [],
  );
});

test('every TypeScript file is imported by another or is an entry point', () => {
  const entry =
    /^(host\/main|assembly\/index|test\/(run|.*\.test)|bench\/|tools\/\w+|\w+\/\w+\/(main|run))/;
  const everything = SOURCES.map(read).join('\n') + read('package.json');
  const stem = (file: string) => basename(file).replace(/\.ts$/, '');
  const orphans = matching(/\.ts$/)
    .filter((file) => !entry.test(file))
    .filter((file) => !new RegExp(`['"/]${stem(file)}(\\.ts)?['"]`).test(everything));
  assert.equal(orphans, []);
});

test('every page of docs is reachable from the README and its links lead somewhere', () => {
  const links = (file: string) =>
    [...read(file).matchAll(/\]\(([^)#:\s]+)(#[^)]*)?\)/g)].map((match) =>
      normalize(join(dirname(file), match[1])),
    );
  const broken = DOCS.flatMap((file) =>
    links(file).flatMap((target) => (existsSync(join(ROOT, target)) ? [] : [`${file}: ${target}`])),
  );
  assert.equal(broken, []);
  const seen = new Set<string>(['README.md']);
  for (const file of seen) {
    links(file)
      .filter((target) => DOCS.includes(target))
      .forEach((target) => {
        seen.add(target);
      });
  }
  assert.equal(
    DOCS.filter((file) => !seen.has(file)),
    [],
  );
});

test('dependencies are exactly those docs/dependencies.md gives a reason for', () => {
  const manifest = JSON.parse(read('package.json'));
  const names = [
    ...Object.keys(manifest.dependencies),
    ...Object.keys(manifest.devDependencies),
  ].sort();
  const page = read('docs/dependencies.md');
  const explained = [...page.matchAll(/^\| `([^`]+)` \| npm \|/gm)].map((match) => match[1]).sort();
  assert.equal(explained, names);
});

test('the lock file names no download address', () => {
  assert.not.match(read('package-lock.json'), '"resolved"');
});

/** Lines of C that say something: no comment, not blank. */
function codeLines(file: string): number {
  const code = read(file)
    .replace(/\/\*[\s\S]*?\*\//g, '')
    .replace(/\/\/.*$/gm, '');
  return code.split('\n').filter((line) => line.trim() !== '').length;
}

test('the C of a cell stays within what a reviewer can read: it is the trusted base', () => {
  // Those of the addon, and of build/faraday-cell-recording: test/cell-elf.test.ts looks that no
  // other cell has them.
  const elsewhere = /^shim\/(addon|child|watch|probe|record|core-trace)/;
  const trusted = matching(/^shim\/.*\.[ch]$/).filter((file) => !elsewhere.test(file));
  const total = trusted.reduce((sum, file) => sum + codeLines(file), 0);
  assert.ok(total > 2000, `${total} lines: is anything found?`);
  assert.ok(total <= 5900, `${total} lines; docs/roadmap.md says what could leave`);
});

test.run();
