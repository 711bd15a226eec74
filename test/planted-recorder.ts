// Faraday with a core that traps on a guest's word, which ours never does: a cell that records it,
// and a command that replays it.
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { compileObject, linkProgram, RECORDING_FLAGS, TRACED_FLAGS } from '../tools/build-shim.ts';
import { REPOSITORY } from '../tools/cache.ts';
import { type Edit, plantedCore, scratch } from './planted-core.ts';

/** A write of it to the UART's scratch register or to a virtio device's QueueSel is a trap. */
export const TRAP_VALUE = 0x99;

const trapBefore = (file: string, from: string): Edit => {
  return { file, from, to: `if (value == ${TRAP_VALUE}) unreachable();\n      ${from}` };
};
const EDITS = [
  trapBefore('assembly/serial.ts', 'self.scr = byte;'),
  trapBefore('assembly/virtio-mmio.ts', 'self.queueSel = value;'),
];

/** A copy of the program with links to this build, and another core for engine v8. */
function install(core: string): string {
  const folder = mkdtempSync(join(scratch, 'installed-'));
  mkdirSync(join(folder, 'build'));
  for (const name of ['bin', 'package.json']) {
    cpSync(join(REPOSITORY, name), join(folder, name), { recursive: true });
  }
  for (const name of readdirSync(join(REPOSITORY, 'build'))) {
    symlinkSync(join(REPOSITORY, 'build', name), join(folder, 'build', name));
  }
  rmSync(join(folder, 'build/core.wasm'));
  cpSync(join(core, 'core.wasm'), join(folder, 'build/core.wasm'));
  return join(folder, 'bin/faraday.js');
}

/** Paths of the cell that records and of the command. */
export async function plantedRecorder(): Promise<{ cell: string; faraday: string }> {
  const core = await plantedCore(EDITS);
  // What a source names in quotes is looked for beside it: cage.c goes where its core is.
  cpSync(join(REPOSITORY, 'shim/cage.c'), join(core, 'cage.c'));
  const cage = join(core, 'traced-cage.o');
  await compileObject(join(core, 'cage.c'), cage, [core], TRACED_FLAGS);
  const own = ['cell.c.o', 'record.c.o'].map((name) => join(REPOSITORY, 'build/obj', name));
  const cell = join(core, 'faraday-cell-recording');
  await linkProgram(cell, [...own, cage], [...RECORDING_FLAGS]);
  return { cell, faraday: install(core) };
}
