// `--detach`: a cell that outlives its host. In a file of its own because asking for terminals loads
// Node's network stack.
import { isatty } from 'node:tty';
import type { MachineImage } from '../boot/image.ts';
import { attend, Cell, type CellOptions } from './cell.ts';
import { spawnCell } from './spawn-cell.ts';

const STDOUT = 1;
const STDERR = 2;

/** Starts `image` in a cell that outlives this process; returns its pid once its vCPUs run. */
export async function startDetached(image: MachineImage, options: CellOptions): Promise<number> {
  const unlessTerminal = (fd: number) => (isatty(fd) ? 'ignore' : 'inherit');
  const child = spawnCell(image, {
    program: options.program,
    detached: true,
    input: 'ignore',
    output: unlessTerminal(STDOUT),
    errors: unlessTerminal(STDERR),
  });
  const cell = new Cell(image, options, child);
  const leave = attend(cell);
  try {
    await cell.started();
    return child.pid;
  } finally {
    leave();
  }
}
