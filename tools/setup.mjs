// Runs before `npm test`, `npm run quickstart` and `npm run bench`: brings a fresh clone to the
// point where they can work, and costs a fraction of a second when it is there already.
// Plain JavaScript, because nothing is installed yet. Exit 3: this host lacks something; 1: the
// build failed.
import { spawn, spawnSync } from 'node:child_process';
import { accessSync, constants, mkdirSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { withLock } from './lock.mjs';
import { findCommand, isPresent, PACKAGES, searchPath } from './packages.mjs';
import { step } from './progress.mjs';
import { staleSteps } from './stamps.mjs';

const EXIT_BUILD = 1;
const EXIT_HOST = 3;
const NODE_MAJOR = 20;
const APT_LOCK_PATIENCE_MILLISECONDS = 600_000;
const APT_LOCK_PAUSE_MILLISECONDS = 3_000;

const root = fileURLToPath(new URL('..', import.meta.url));
/** A failure with one line for the user. */
class SetupError extends Error {
  /** @param {number} exitCode @param {string} message */
  constructor(exitCode, message) {
    super(message);
    this.exitCode = exitCode;
  }
}

/**
 * Runs a program quietly.
 * @param {string} file @param {string[]} args @param {NodeJS.ProcessEnv} [environment]
 * @returns {Promise<{ status: number, output: string }>}
 */
function runQuietly(file, args, environment) {
  return new Promise((resolve) => {
    const child = spawn(file, args, {
      cwd: root,
      env: { ...process.env, ...environment, PATH: searchPath },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    const collect = (/** @type {Buffer} */ bytes) => {
      output += bytes.toString();
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    child.once('error', (error) => resolve({ status: 127, output: error.message }));
    child.once('close', (code) => resolve({ status: code ?? 1, output }));
  });
}

function checkPlatform() {
  if (Number(process.versions.node.split('.')[0]) < NODE_MAJOR) {
    const found = process.versions.node;
    throw new SetupError(
      EXIT_HOST,
      `Node ${found} is too old: install Node ${NODE_MAJOR} or newer`,
    );
  }
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    const found = `${process.platform} on ${process.arch}`;
    throw new SetupError(EXIT_HOST, `${found}: Faraday needs Linux on x86-64`);
  }
}

/**
 * The words that make apt-get run as root, or undefined where nothing does.
 * @returns {string[] | undefined}
 */
function becomeRoot() {
  if (process.getuid?.() === 0) {
    return [];
  }
  if (!findCommand('sudo')) {
    return undefined;
  }
  const quiet = { env: { ...process.env, PATH: searchPath }, stdio: 'ignore' };
  if (spawnSync('sudo', ['-n', 'true'], /** @type {any} */ (quiet)).status === 0) {
    return ['sudo', '-n'];
  }
  // On a terminal sudo may ask for a password: before any progress line, not amid them.
  const asked = process.stdin.isTTY && spawnSync('sudo', ['-v'], { stdio: 'inherit' }).status === 0;
  return asked ? ['sudo'] : undefined;
}

/**
 * Runs apt-get, waiting while another package manager is at work.
 * @param {string[]} prefix @param {string[]} args @param {(text: string) => void} note
 */
async function apt(prefix, args, note) {
  const settings = ['env', 'DEBIAN_FRONTEND=noninteractive', 'NEEDRESTART_SUSPEND=1', 'LC_ALL=C'];
  const [file, ...rest] = [...prefix, ...settings, 'apt-get', '-qq', ...args];
  const giveUpAt = Date.now() + APT_LOCK_PATIENCE_MILLISECONDS;
  for (let first = true; ; first = false) {
    const result = await runQuietly(/** @type {string} */ (file), rest);
    const locked = /could not get lock|unable to (lock|acquire)/i.test(result.output);
    if (result.status === 0 || !locked || Date.now() > giveUpAt) {
      return result;
    }
    if (first) {
      note('another package manager is running: waiting for it');
    }
    await new Promise((resolve) => setTimeout(resolve, APT_LOCK_PAUSE_MILLISECONDS));
  }
}

/** @param {string} output @returns {string} apt's first complaint */
function complaint(output) {
  const lines = output.trim().split('\n');
  return lines.find((line) => line.startsWith('E:')) ?? lines.at(-1) ?? '';
}

async function installPackages() {
  const missing = PACKAGES.filter((each) => !isPresent(each));
  if (missing.length === 0) {
    return;
  }
  const names = missing.map((each) => each.name);
  const manual = `apt-get update && apt-get install -y --no-install-recommends ${names.join(' ')}`;
  for (const { name, purpose } of missing) {
    process.stderr.write(`setup: ${name} is missing (${purpose})\n`);
  }
  const prefix = findCommand('apt-get') ? becomeRoot() : undefined;
  if (!prefix) {
    throw new SetupError(EXIT_HOST, `install what is missing as root, then come back: ${manual}`);
  }
  await step('setup', 'updating the package lists', (note) => apt(prefix, ['update'], note));
  await step('setup', `installing ${names.join(', ')}`, async (note) => {
    const args = ['install', '-y', '--no-install-recommends', ...names];
    const result = await apt(prefix, args, note);
    if (result.status !== 0) {
      const why = complaint(result.output);
      throw new SetupError(EXIT_HOST, `apt-get cannot install them (is there a network?): ${why}`);
    }
  });
  const still = missing.filter((each) => !isPresent(each)).map((each) => each.name);
  if (still.length > 0) {
    throw new SetupError(EXIT_HOST, `still missing after installation: ${still.join(', ')}`);
  }
}

/** @param {string} path @returns {number} its modification time, 0 where it is not */
function modified(path) {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

/** npm's cache folder if npm can write to it, else one of our own. */
function npmCache() {
  const usual = process.env.npm_config_cache ?? join(homedir(), '.npm');
  try {
    mkdirSync(usual, { recursive: true });
    accessSync(usual, constants.W_OK);
    return usual;
  } catch {
    return join(root, 'build/npm-cache');
  }
}

function modulesAreCurrent() {
  // npm writes this file last.
  return (
    modified(join(root, 'node_modules/.package-lock.json')) >=
    modified(join(root, 'package-lock.json'))
  );
}

async function installModules() {
  if (modulesAreCurrent()) {
    return;
  }
  const npm = process.env.npm_execpath;
  const [file, ...first] = npm ? [process.execPath, npm] : ['npm'];
  const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  await step('setup', 'installing npm packages', async () => {
    const program = /** @type {string} */ (file);
    const result = await runQuietly(program, [...first, ...args, `--cache=${npmCache()}`]);
    if (result.status !== 0) {
      const output = result.output.trim();
      throw new SetupError(EXIT_HOST, `npm ci failed (is there a network?)\n${output}`);
    }
  });
}

async function build() {
  if (staleSteps().length === 0) {
    return;
  }
  const child = spawn(process.execPath, ['--import', 'tsx', 'tools/build.ts'], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const status = await new Promise((resolve) => {
    child.once('close', (code) => resolve(code ?? 1));
  });
  if (status !== 0) {
    throw new SetupError(status === EXIT_HOST ? EXIT_HOST : EXIT_BUILD, 'the build failed');
  }
}

try {
  checkPlatform();
  await installPackages();
  // Two of them may start at once in one folder, `npm test` beside `npm run quickstart`.
  await withLock(
    join(root, 'build/setup.lock'),
    async () => {
      await installModules();
      await build();
    },
    () => process.stderr.write('setup: waiting for another set-up of this folder\n'),
  );
} catch (error) {
  process.stderr.write(`setup: ${/** @type {Error} */ (error).message}\n`);
  process.exitCode = error instanceof SetupError ? error.exitCode : EXIT_BUILD;
}
