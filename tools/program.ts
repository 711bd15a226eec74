// Faraday's program, as the lab takes it along: a copy, so that nothing that happens to the
// checkout meanwhile reaches it.
import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { REPOSITORY } from './cache.ts';
import { outputsOf, STEPS, type StepName } from './stamps.mjs';

/** Copies what `faraday` is made of once it is built; FOLDER/bin/faraday.js then runs it. */
export function copyProgram(folder: string): void {
  const names = (Object.keys(STEPS) as StepName[]).filter((name) => name !== 'testing');
  const outputs = names.flatMap(outputsOf);
  for (const file of ['package.json', 'bin', ...outputs]) {
    cpSync(join(REPOSITORY, file), join(folder, file), { recursive: true });
  }
}
