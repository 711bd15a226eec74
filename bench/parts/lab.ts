// Running a benchmark's script inside the nested lab, from a folder with all it needs.
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FaradayError } from '../../host/errors.ts';
import { runInLab } from '../../test/lab/lab.ts';
import { run } from '../../tools/command.ts';
import { kernelPackages } from '../../tools/distribution.ts';
import { copyProgram } from '../../tools/program.ts';
import { benchFolder } from './samples.ts';

export interface LabBench {
  name: string;
  command: string[]; // in the bench's folder
  timeoutSeconds: number;
  memoryMiB?: number;
}

/** Compiles bench/NAME.c to a static program at `path`. */
export async function compile(name: string, path: string): Promise<void> {
  const source = fileURLToPath(new URL(`../${name}.c`, import.meta.url));
  await run('gcc', ['-O2', '-Wall', '-Werror', '-static', '-o', path, source]);
}

/**
 * An empty folder for a benchmark, but for Faraday's program and a store (XDG_DATA_HOME) where the
 * distribution's cloud kernel is 'stock'.
 */
export async function labFolder(name: string): Promise<string> {
  const folder = benchFolder(name);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  copyProgram(join(folder, 'program'));
  const [kernel] = await kernelPackages('cloud');
  const faraday = join(folder, 'program/bin/faraday.js');
  await run(process.execPath, [faraday, 'kernel', 'import', kernel!, '--name', 'stock'], {
    env: { XDG_DATA_HOME: join(folder, 'data'), XDG_CACHE_HOME: join(folder, 'cache') },
  });
  rmSync(join(folder, 'cache'), { recursive: true, force: true });
  return folder;
}

/** Runs the command in the lab and returns what it printed. Throws where there is no result. */
export async function benchInLab(bench: LabBench): Promise<string> {
  const { name, command, timeoutSeconds, memoryMiB } = bench;
  const result = await runInLab({
    command,
    timeoutSeconds,
    ...(memoryMiB === undefined ? {} : { memoryMiB }),
    workFolder: benchFolder(name),
    onNote: (text) => process.stderr.write(`${text}\n`),
    onOutput: () => process.stderr.write('.'),
  });
  process.stderr.write('\n');
  if (result.labDied || result.timedOut || result.status !== 0) {
    const why = result.labDied ? 'it died' : result.timedOut ? 'time is up' : result.status;
    throw new FaradayError('host', `${name}: the lab has no result (${why}): ${result.output}`);
  }
  return result.output;
}
