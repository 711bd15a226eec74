// The names of system calls against the C headers of this machine.
import { execFileSync } from 'node:child_process';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { syscallName, syscallNumber, syscallNumbers } from '../host/confine/syscalls.ts';

/** The calls of asm/unistd_64.h, number by name. */
function headerNumbers(): Map<string, number> {
  const text = execFileSync('gcc', ['-dM', '-E', '-include', 'asm/unistd_64.h', '-x', 'c', '-'], {
    input: '',
    encoding: 'utf8',
  });
  const defines = [...text.matchAll(/^#define __NR_(\w+) (\d+)$/gm)];
  return new Map(defines.map(([, name, number]) => [name!, Number(number)]));
}

test('headers and names here agree, as far as both know a call', () => {
  const header = headerNumbers();
  const here = syscallNumbers();
  const newest = (all: Map<string, number>) => Math.max(...all.values());
  assert.ok(header.size > 330, `${header.size} calls`);
  // Either may be newer than the other.
  const known = (number: number) => number <= Math.min(newest(header), newest(here));
  for (const [name, number] of header) {
    if (here.has(name) || (known(number) && number >= 424)) assert.is(here.get(name), number, name);
  }
  for (const [name, number] of here) {
    if (number < 335 || (number >= 424 && known(number))) assert.is(header.get(name), number, name);
  }
});

test('a name has a number and a number a name', () => {
  for (const [name, number] of syscallNumbers()) {
    assert.is(syscallNumber(name), number);
    assert.is(syscallName(number), name);
  }
  assert.is(syscallName(257), 'openat');
  assert.is(syscallName(400), 'number 400');
  assert.throws(() => syscallNumber('opnat'), /'opnat'/);
});

test.run();
