// `--detach`: a cell that outlives its host. In a file of its own because asking for terminals
// loads Node's network stack.
import { isatty } from 'node:tty';
import type { MachineImage } from '../boot/image.ts';
import { type CellOptions, withCell } from './cell.ts';

const STDOUT = 1;
const STDERR = 2;

/** Starts `image` in a cell that outlives this process; returns its pid once its vCPUs run. */
export async function startDetached(image: MachineImage, options: CellOptions): Promise<number> {
  const unlessTerminal = (fd: number) => (isatty(fd) ? 'ignore' : 'inherit');
  const output = unlessTerminal(STDOUT);
  const how = { input: 'ignore', output, errors: unlessTerminal(STDERR), detached: true } as const;
  return withCell(image, options, how, async (cell) => {
    await cell.started();
    return cell.child.pid;
  });
}
