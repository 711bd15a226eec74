// The C programs that time a cage and its reference in plain C.
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** What the native cage is linked from, in build/obj: the same as in a cell. */
export const NATIVE_OBJECTS = ['cage.c.o', 'libfaraday.a'];

/** Compiles bench/NAME.c with the shim's headers and `objects`, and returns the program's path. */
export function compileCage(name: string, objects: readonly string[]): string {
  const path = (file: string) => fileURLToPath(new URL(`../${file}`, import.meta.url));
  const [build, binary] = [path('../build'), path(`../build/${name}`)];
  const headers = ['-D_GNU_SOURCE', `-I${path('../shim')}`, `-I${build}`];
  const flags = ['-O2', '-Wall', '-Wextra', '-Werror', '-static-pie', '-fPIE', ...headers];
  const inputs = [path(`${name}.c`), ...objects.map((object) => `${build}/obj/${object}`)];
  execFileSync('gcc', [...flags, '-o', binary, ...inputs]);
  return binary;
}

/** The words of each line that a run prints. */
export type Lines = string[][];

/** Runs programs in turn, so that what slows the machine down for a while is in all of them. */
export function runInTurn(binaries: readonly string[], runs: number): Lines[][] {
  const results: Lines[][] = binaries.map(() => []);
  for (let run = 0; run < runs; run += 1) {
    for (const [index, binary] of binaries.entries()) {
      const lines = execFileSync(binary).toString().trim().split('\n');
      results[index]!.push(lines.map((line) => line.split(' ')));
    }
  }
  return results;
}
