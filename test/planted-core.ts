// Builds the core with a bug planted in it, by the steps of the real build, and test/cage-escape.c
// around it. Sources are changed in copies only.
import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { compileCore } from '../tools/build-core.ts';
import { compileObject, linkProgram, translateCore } from '../tools/build-shim.ts';
import { REPOSITORY } from '../tools/cache.ts';

/** A change of one source: `from` must be there exactly once. */
export interface Edit {
  file: string; // assembly/... or shim/...
  from: string;
  to: string;
}

export const scratch = mkdtempSync(join(tmpdir(), 'faraday-planted-'));
process.once('exit', () => rmSync(scratch, { recursive: true, force: true }));

/** The text with the change made. */
export function edited(text: string, { file, from, to }: Edit): string {
  const parts = text.split(from);
  if (parts.length !== 2) throw new Error(`${file} has ${parts.length - 1} times: ${from}`);
  return parts.join(to);
}

let objectOnce: Promise<string> | undefined;

/** The test's own C file, which is the same whatever the core. */
function harness(): Promise<string> {
  const object = join(scratch, 'cage-escape.o');
  const source = join(REPOSITORY, 'test/cage-escape.c');
  objectOnce ??= compileObject(source, object, []).then(() => object);
  return objectOnce;
}

async function buildCore(edits: Edit[]): Promise<string> {
  const folder = mkdtempSync(join(scratch, 'core-'));
  cpSync(join(REPOSITORY, 'assembly'), join(folder, 'assembly'), { recursive: true });
  cpSync(join(REPOSITORY, 'asconfig.json'), join(folder, 'asconfig.json'));
  for (const edit of edits) {
    const path = join(folder, edit.file);
    writeFileSync(path, edited(readFileSync(path, 'utf8'), edit));
  }
  const wasm = join(folder, 'core.wasm');
  writeFileSync(wasm, (await compileCore(folder)).wasm);
  await translateCore(wasm, join(folder, 'core_w2c.c'));
  return folder;
}

const cores = new Map<string, Promise<string>>();

/** A folder with the core of these changes: core.wasm, and core_w2c.c made of it. */
export function plantedCore(edits: Edit[]): Promise<string> {
  const key = JSON.stringify(edits);
  const known = cores.get(key) ?? buildCore(edits);
  cores.set(key, known);
  return known;
}

/** The program with that core, and with changed copies of files of the shim. Returns its path. */
export async function plantedProgram(coreEdits: Edit[], shimEdits: Edit[]): Promise<string> {
  const core = await plantedCore(coreEdits);
  const folder = mkdtempSync(join(scratch, 'program-'));
  // What a source names in quotes is looked for beside it: cage.c goes where the copies are.
  cpSync(join(REPOSITORY, 'shim/cage.c'), join(folder, 'cage.c'));
  const sources = new Set(['cage.c']);
  for (const edit of shimEdits) {
    const name = basename(edit.file);
    const text = readFileSync(join(REPOSITORY, edit.file), 'utf8');
    writeFileSync(join(folder, name), edited(text, edit));
    if (name.endsWith('.c')) sources.add(name);
  }
  const objects = [await harness()];
  for (const name of sources) {
    objects.push(join(folder, `${name}.o`));
    await compileObject(join(folder, name), objects.at(-1)!, [folder, core]);
  }
  const program = join(folder, 'cage-escape');
  await linkProgram(program, objects, ['-Wl,--wrap=mmap64,--wrap=munmap']);
  return program;
}

export interface Ended {
  status: number | null;
  signal: string | null;
  output: string;
  errors: string;
}

/** Runs the program with a script to its end. */
export function runScript(program: string, script: string): Promise<Ended> {
  const child = spawn(program, [], { stdio: ['pipe', 'pipe', 'pipe'] });
  let [output, errors] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors += text;
  });
  child.stdin.on('error', () => {}); // it may end before it has read all
  child.stdin.end(script);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status, signal) => resolve({ status, signal, output, errors }));
  });
}
