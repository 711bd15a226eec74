// npm test [-- WORD...]: runs the test files, each in a process of its own, grouped by what they
// mirror. Words choose groups or files. The last line is 'N passed, N failed[, N skipped]' alone;
// the status is 1 when a test failed or none ran.
//
// A test file may set its own time limit by a line '// Time limit: N s'.
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { REPOSITORY } from '../tools/cache.ts';
import { DEATHS_LOG } from './lab/lab.ts';

const DEFAULT_LIMIT_SECONDS = 300;
const TAIL_LINES = 60; // of a failed file's output

interface TestFile {
  name: string; // virtq.test.ts
  group: string;
  limitSeconds: number;
}

interface FileResult {
  file: TestFile;
  passed: number;
  failed: number;
  skipped: number;
  skips: string[]; // names with reasons
  seconds: number;
  problem: string; // what is wrong beside failed tests
  output: string;
}

// A group is where the source lies that the file mirrors; the first folder that has it counts.
const GROUPS: [group: string, folder: string, extension: string][] = [
  ['core', 'assembly', '.ts'],
  ['boot', 'host/boot', '.ts'],
  ['kernel', 'host/kernel', '.ts'],
  ['engine', 'host/engine', '.ts'],
  ['confine', 'host/confine', '.ts'],
  ['cli', 'host/cli', '.ts'],
  ['host', 'host', '.ts'],
  ['tools', 'tools', '.ts'],
  ['tools', 'tools', '.mjs'],
  ['lab', 'test/lab', '.ts'],
];

/** Files named after no source: what boots real kernels comes last, since it is slow. */
function groupOf(base: string): string {
  const mirrored = GROUPS.find(([, folder, extension]) =>
    existsSync(join(REPOSITORY, folder, `${base}${extension}`)),
  );
  if (mirrored) {
    return mirrored[0];
  }
  const named = { boot: 'boots', shim: 'shim', cell: 'cell', cli: 'cli' };
  return Object.entries(named).find(([word]) => base.startsWith(word))?.[1] ?? 'whole';
}

const ORDER = 'core boot kernel engine confine shim cell host cli tools whole'.split(' ');
const IN_LAB = ['lab', 'boots'];

/** A whole file name chooses that file; another word a group, or files whose name holds it. */
function chooses(word: string, name: string, group: string): boolean {
  return word.endsWith('.test.ts') ? word === name : word === group || name.includes(word);
}

function findTests(words: string[]): TestFile[] {
  const order = [...ORDER, ...IN_LAB];
  return readdirSync(join(REPOSITORY, 'test'))
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => {
      const text = readFileSync(join(REPOSITORY, 'test', name), 'utf8');
      const limit = /^\/\/ Time limit: (\d+) s/m.exec(text)?.[1];
      const group = groupOf(name.slice(0, -'.test.ts'.length));
      return { name, group, limitSeconds: limit ? Number(limit) : DEFAULT_LIMIT_SECONDS };
    })
    .filter(({ name, group }) => words.length === 0 || words.some((w) => chooses(w, name, group)))
    .sort((a, b) => order.indexOf(a.group) - order.indexOf(b.group) || (a.name < b.name ? -1 : 1));
}

const running = new Set<number>();

function stop(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL'); // the file's own children too
  } catch {
    // It ended by itself a moment ago.
  }
}

/** Runs one file. Resolves to its output and status; 'late' when it had to be stopped. */
function execute(
  file: TestFile,
  extra: NodeJS.ProcessEnv = {},
): Promise<{ output: string; status: number | 'late' }> {
  const announce = new URL('announce-skips.mjs', import.meta.url).href;
  const args = ['--import', 'tsx', '--import', announce, join('test', file.name)];
  // Reading extra certificates costs every Node that the tests start.
  const env = {
    ...process.env,
    NO_COLOR: '1',
    FORCE_COLOR: '0',
    NODE_EXTRA_CA_CERTS: undefined,
    ...extra,
  };
  const child = spawn(process.execPath, args, {
    cwd: REPOSITORY,
    env,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const pid = child.pid!;
  running.add(pid);
  let output = '';
  let late = false;
  const collect = (text: string) => {
    output += text;
  };
  child.stdout.setEncoding('utf8').on('data', collect);
  child.stderr.setEncoding('utf8').on('data', collect);
  const limit = setTimeout(() => {
    late = true;
    stop(pid);
  }, file.limitSeconds * 1000);
  return new Promise((resolve) => {
    child.once('exit', () => stop(pid)); // what it left behind would hold its output open
    child.once('close', (code) => {
      clearTimeout(limit);
      running.delete(pid);
      resolve({ output, status: late ? 'late' : (code ?? 1) });
    });
  });
}

/** A boot that failed once more, with its cells recorded, for who looks into it. */
async function recordAgain({ file }: FileResult): Promise<void> {
  const { status } = await execute(file, { FARADAY_RECORD_CELLS: '1' });
  const how =
    status === 0
      ? 'passed, and left none'
      : 'failed too; see build/boots/*-recorded and docs/replay.md';
  process.stdout.write(`${file.name} again, for recordings of its cells: it ${how}\n`);
}

/** Reads uvu's totals. A file that gives none, or ran nothing, has failed, whatever its status. */
async function runFile(file: TestFile): Promise<FileResult> {
  const started = Date.now();
  const { output, status } = await execute(file);
  const total = (word: string) => {
    const match = new RegExp(`^ {2}${word}: +(\\d+)$`, 'm').exec(output);
    return match ? Number(match[1]) : undefined;
  };
  const [all, passed, skipped] = [total('Total'), total('Passed'), total('Skipped')];
  const counted = {
    passed: passed ?? 0,
    failed: (all ?? 0) - (passed ?? 0),
    skipped: skipped ?? 0,
  };
  let problem = '';
  if (status === 'late') {
    problem = `stopped at its time limit of ${file.limitSeconds} s`;
  } else if (all === undefined) {
    problem = `no totals (status ${status}): does it end with test.run()?`;
  } else if (all === 0 && counted.skipped === 0) {
    problem = 'it holds no test';
  } else if (status !== 0 && counted.failed === 0) {
    problem = `status ${status}, though every test passed`;
  }
  const skips = [...output.matchAll(/^SKIPPED: (.*)$/gm)].map((match) => match[1]!);
  const failed = Math.max(counted.failed, problem ? 1 : 0);
  const seconds = (Date.now() - started) / 1000;
  return { file, ...counted, failed, skips, seconds, problem, output };
}

function tell({ file, passed, failed, skips, seconds, problem, output }: FileResult): void {
  const verdict = failed > 0 ? 'FAILED' : 'ok';
  const name = `${file.group}: ${file.name}`.padEnd(36);
  process.stdout.write(`${verdict.padEnd(7)}${name} ${passed} passed, ${seconds.toFixed(1)} s\n`);
  for (const skip of skips) {
    process.stdout.write(`   SKIPPED ${skip}\n`);
  }
  if (failed > 0) {
    const lines = output.trimEnd().split('\n');
    const text = lines.slice(-TAIL_LINES).map((line) => `   | ${line}\n`);
    process.stdout.write(`${text.join('')}${problem ? `   ${problem}\n` : ''}`);
  }
}

/** Runs files side by side, at most `width` at once, and tells each result when it is there. */
async function runAll(files: TestFile[], width: number): Promise<FileResult[]> {
  const results: FileResult[] = [];
  const queue = [...files];
  const worker = async () => {
    for (let file = queue.shift(); file; file = queue.shift()) {
      const result = await runFile(file);
      results.push(result);
      tell(result);
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
  return results;
}

function labDeaths(): number {
  return existsSync(DEATHS_LOG) ? readFileSync(DEATHS_LOG, 'utf8').trim().split('\n').length : 0;
}

async function main(words: string[]): Promise<number> {
  const files = findTests(words);
  const deathsBefore = labDeaths();
  const inLab = (file: TestFile) => IN_LAB.includes(file.group);
  // An emulated host keeps one processor busy, so two at once are enough.
  const width = Math.min(2, availableParallelism());
  const outside = files.filter((file) => !inLab(file));
  const results = [
    ...(await runAll(outside, width)),
    ...(await runAll(files.filter(inLab), width)),
  ];
  const sum = (key: 'passed' | 'failed' | 'skipped') =>
    results.reduce((total, result) => total + result[key], 0);
  for (const result of results) {
    if (result.file.group === 'boots' && result.failed > 0) await recordAgain(result);
  }
  const deaths = labDeaths() - deathsBefore;
  if (deaths > 0) {
    process.stdout.write(`the lab died ${deaths} times (see build/lab/deaths.log)\n`);
  }
  if (files.length === 0) {
    process.stdout.write(`no test file or group is called '${words.join("' or '")}'\n`);
  }
  const skipped = sum('skipped') > 0 ? `, ${sum('skipped')} skipped` : '';
  process.stdout.write(`${sum('passed')} passed, ${sum('failed')} failed${skipped}\n`);
  return sum('failed') > 0 || sum('passed') === 0 ? 1 : 0;
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => {
    for (const pid of running) {
      stop(pid);
    }
    process.exit(1);
  });
}
process.exitCode = await main(process.argv.slice(2));
