// `faraday replay`: does again what a run recorded, on fresh cages, and compares.
import { Command } from 'commander';
import { FaradayError } from '../errors.ts';
import { printOutput } from '../log.ts';
import type { ReplayEngine } from '../replay/engines.ts';

const ENGINES: readonly ReplayEngine[] = ['v8', 'cell'];

function toEngine(text: string): ReplayEngine {
  const found = ENGINES.find((engine) => engine === text);
  if (found) return found;
  throw new FaradayError('bad-usage', `--engine '${text}' is unknown; known are v8, cell`);
}

export const replayCommand = new Command('replay')
  .description('repeat a recorded run call by call and compare')
  .helpOption('-h, --help', 'show help')
  .argument('<file>', 'a recording of faraday run --record')
  .option('--engine <engine>', 'v8 or cell (default: v8)', toEngine)
  .action(async (file: string, { engine = 'v8' }: { engine?: ReplayEngine }) => {
    const { replay } = await import('../replay/replay.ts');
    const { events, devices, guestBytes } = replay(file, engine);
    const what = `${events} events of ${devices} devices, ${guestBytes} guest bytes`;
    printOutput(`identical in engine ${engine}: ${what}\n`);
  });
