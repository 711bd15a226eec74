// Conformance to virtio 1.2: each row of test/conformance/ is one test on the release core. A gap
// shows as a skipped test with its reason; docs/conformance.md is the table as a page.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { conformancePage } from './conformance/conformance-page.ts';
import { idOf } from './conformance/statement.ts';
import { CHAPTERS } from './conformance/table.ts';

const SECTIONS = CHAPTERS.flatMap((chapter) => chapter.sections);
const ROWS = SECTIONS.flatMap((section) =>
  section.rows.map((row) => ({ row, side: section.side, id: idOf(section, row) })),
);

for (const { row, id } of ROWS) {
  if ('test' in row) test(`${id} ${row.says}`, row.test);
  if ('gap' in row) test.skip(`${id} ${row.says} GAP: ${row.gap}`, () => {});
}

test('the sections are in the order of their numbers, each once', () => {
  const numbers = SECTIONS.map((section) => section.number);
  const ordered = [...new Set(numbers)].sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
  assert.equal(numbers, ordered);
});

test('a statement about drivers says what a driver gets that breaks it', () => {
  const silent = ROWS.filter(
    ({ row, side }) => side === 'driver' && 'test' in row && row.answer === undefined,
  );
  assert.equal(
    silent.map(({ id }) => id),
    [],
  );
});

test('the tests of other files that the table names are there', () => {
  const named = ROWS.flatMap(({ row }) => ('test' in row && row.also ? [row.also] : []));
  const missing = named.filter((name) => {
    const [file, ...words] = name.split(': ');
    const text = readFileSync(join(import.meta.dirname, file), 'utf8');
    return !text.split('\n').some((line) => /test\(/.test(line) && line.includes(words.join(': ')));
  });
  assert.ok(named.length > 5);
  assert.equal(missing, []);
});

test('docs/conformance.md has the table as it is (test/conformance/conformance-page.ts)', () => {
  const { is, should } = conformancePage();
  assert.ok(is === should, 'write it: node --import tsx test/conformance/conformance-page.ts');
});

test.run();
