// The flags that say how a run is confined: host/confine-config.ts, and what of them is not for
// every engine or user. The same through a configuration file.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readConfigFile, toRunConfig } from '../host/config.ts';
import { parseAllowPath, parseLandlockRule, parseUser } from '../host/confine-config.ts';
import { EXIT_USAGE } from '../host/errors.ts';
import type { RawSettings } from '../host/settings.ts';
import { usageRefusal as refusal } from './usage-refusal.ts';

const FARADAY = new URL('../bin/faraday.js', import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), 'faraday-confine-'));
test.after(() => rmSync(folder, { recursive: true }));

const file = (name: string, text: string): string => {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
};

const config = (settings: RawSettings) => toRunConfig({ kernel: 'vmlinux', ...settings });
const isRoot = process.geteuid!() === 0;

/** The same settings as they come from flags, and out of a configuration file. */
function bothWays(settings: RawSettings): RawSettings[] {
  const path = file('vm.json', JSON.stringify(settings));
  return [settings, readConfigFile(path)];
}

function assertRefused(settings: RawSettings, expected: RegExp): void {
  for (const way of bothWays(settings)) {
    assert.match(
      refusal(() => config(way)),
      expected,
    );
  }
}

test('by default everything is on, as far as this machine goes', () => {
  assert.equal(config({}).confine, {
    seccomp: 'enforce',
    landlock: 'auto',
    namespaces: 'auto',
    user: undefined,
    pathRules: [],
  });
});

test('the short forms are the long ones with off', () => {
  for (const way of bothWays({ 'no-seccomp': true, 'no-landlock': true })) {
    const { seccomp, landlock } = config(way).confine;
    assert.equal([seccomp, landlock], ['off', 'off']);
  }
  assert.is(config({ 'no-landlock': true, landlock: 'off' }).confine.landlock, 'off');
});

test('a flag and its opposite exclude each other', () => {
  assertRefused(
    { landlock: 'required', 'no-landlock': true },
    /^--landlock required and --no-landlock exclude each other; keep one$/,
  );
  assertRefused(
    { seccomp: 'enforce', 'no-seccomp': true },
    /^--seccomp enforce and --no-seccomp exclude each other; keep one$/,
  );
  for (const off of [{ landlock: 'off' }, { 'no-landlock': true }]) {
    assertRefused(
      { ...off, 'landlock-allow-path': [folder] },
      /^--landlock off and paths for Landlock exclude each other; keep one$/,
    );
  }
});

test('an unknown mode names those that are known', () => {
  assertRefused({ seccomp: 'on' }, /^--seccomp 'on' is unknown; known are enforce, log, off$/);
  assertRefused({ landlock: 'on' }, /^--landlock 'on' is unknown; known are auto, required, off$/);
  assertRefused({ namespaces: '' }, /^--namespaces '' is unknown; known are auto, required, off$/);
});

test('a rule is a path and an access, in either order', () => {
  const rules = [`path=${folder},access=rw`, `access=r,path=${folder}`];
  for (const way of bothWays({ 'landlock-rules': rules, 'landlock-allow-path': [folder] })) {
    assert.equal(config(way).confine.pathRules, [
      { path: folder, access: 'rw' },
      { path: folder, access: 'r' },
      { path: folder, access: 'r' },
    ]);
  }
  assert.is(parseAllowPath(`${folder},rw`).access, 'rw');
  assert.is(parseAllowPath(`${folder},ro`).access, 'r');
  assert.is(parseLandlockRule(`path=${folder},access=w`).access, 'w');
});

test('a rule that is none is one line with the form it takes', () => {
  for (const bad of ['', folder, `path=${folder}`, 'access=r', `path=${folder},access=r,x=1`]) {
    assertRefused({ 'landlock-rules': [bad] }, /must be path=PATH,access=r\|w\|rw$/);
  }
  for (const letter of ['x', 'wr', 'ro', '']) {
    assertRefused(
      { 'landlock-rules': [`path=${folder},access=${letter}`] },
      new RegExp(`^--landlock-rules access '${letter}' is unknown; known are r, w, rw$`),
    );
  }
});

test('a path of a rule must be there', () => {
  const nowhere = join(folder, 'nowhere');
  const finding = /'[^']*nowhere' does not exist; name what is there$/;
  assertRefused({ 'landlock-rules': [`path=${nowhere},access=r`] }, finding);
  assertRefused({ 'landlock-allow-path': [`${nowhere},rw`] }, finding);
  assertRefused({ 'landlock-allow-path': [''] }, /^--landlock-allow-path is empty$/);
  assertRefused({ 'landlock-allow-path': ['a\0b'] }, /contains a NUL byte$/);
});

test('a user is an account or two numbers', () => {
  assert.equal(parseUser('123:456'), { user: 123, group: 456 });
  assert.equal(parseUser('root'), { user: 0, group: 0 });
  for (const bad of ['nobody-of-that-name', '', '1', '1:', ':1', '1:2:3', '4294967295:1', 'a b']) {
    assertRefused({ user: bad }, /^--user '.*' is no account of \/etc\/passwd; give one, or /);
  }
});

test('only root can give up being root', () => {
  const settings = { user: '123:456' };
  if (isRoot) assert.equal(config(settings).confine.user, { user: 123, group: 456 });
  else
    assertRefused(settings, /^--user '123:456' is for root to give up its rights; leave it out$/);
});

test('a setting of the wrong type in a file is one line', () => {
  for (const [key, value] of [
    ['no-landlock', 'yes'],
    ['landlock', true],
    ['landlock-rules', 'path=/,access=r'],
    ['landlock-allow-path', [1]],
    ['user', 5],
  ] as const) {
    const path = file('wrong.json', JSON.stringify({ [key]: value }));
    const message = refusal(() => readConfigFile(path));
    assert.match(message, new RegExp(`'${key}' must be a`));
  }
});

test('engine v8 has no cell to be confined, and takes none of its flags', () => {
  const v8 = { engine: 'v8' };
  assertRefused(
    { ...v8, user: '1:2' },
    /^--user '1:2' is not for engine v8; use --engine cell or /,
  );
  assertRefused({ ...v8, namespaces: 'required' }, /^--namespaces required is not for engine v8; /);
  assertRefused({ ...v8, seccomp: 'log' }, /^--seccomp log is not for engine v8; /);
  assert.is(config({ ...v8, landlock: 'required' }).confine.landlock, 'required');
});

test('the command says the same, before it opens anything', () => {
  const wrong: [string[], RegExp][] = [
    [['--landlock', 'required', '--no-landlock'], /exclude each other/],
    [['--landlock-rules', `path=${folder},access=q`], /access 'q' is unknown/],
    [['--landlock-allow-path', '/no/such/path'], /'\/no\/such\/path' does not exist/],
    [['--user', 'nobody-of-that-name'], /is no account/],
    [['--json'], /--json is for --explain-sandbox/],
  ];
  for (const [flags, expected] of wrong) {
    const args = [FARADAY, '--kernel', 'no-such-kernel', ...flags];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
    assert.is(status, EXIT_USAGE);
    assert.is(stdout, '');
    assert.match(stderr, /^faraday: [^\n]+\n$/);
    assert.match(stderr, expected);
  }
});

test.run();
