// `faraday replay`: does again what a run recorded, on fresh cages, and compares.
import { Command } from 'commander';
import { FaradayError } from '../errors.ts';
import { oneLine, plainJson, printOutput } from '../log.ts';
import type { ReplayEngine } from '../replay/engines.ts';
import type { ReplayResult } from '../replay/replay.ts';
import { collect } from './repeatable.ts';

const ENGINES: readonly ReplayEngine[] = ['v8', 'cell'];

function toEngine(text: string): ReplayEngine {
  const found = ENGINES.find((engine) => engine === text);
  if (found) return found;
  throw new FaradayError('bad-usage', `--engine '${text}' is unknown; known are v8, cell`);
}

interface Flags {
  engine?: ReplayEngine;
  until?: number;
  state?: boolean;
  device: string[];
  json?: boolean;
}

const usage = (message: string): FaradayError => new FaradayError('bad-usage', message);

function toEventNumber(text: string): number {
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw usage(`--until '${text}' is no number of an event; 'faraday trace' has them, from 1 on`);
}

/** Says no to flags that would do nothing, before a long replay. */
function checkFlags({ state, device, json }: Flags): void {
  if (state) return;
  if (device.length > 0) throw usage('--device is for --state; add it, or leave --device out');
  if (json) throw usage('--json is for --state; add it, or leave --json out');
}

/** The same for devices that the recording does not have. */
async function checkDevices(file: string, { device }: Flags): Promise<void> {
  const { Recording } = await import('../replay/recording.ts');
  const recording = new Recording(file);
  recording.close();
  const names = recording.machine.devices.map(({ name }) => name);
  for (const wanted of device) {
    if (names.includes(wanted)) continue;
    throw usage(`--device '${wanted}' is unknown; known are ${names.join(', ')}`);
  }
}

async function printStates({ states }: ReplayResult, { device, json }: Flags): Promise<void> {
  const { stateObject, stateText } = await import('../replay/state-text.ts');
  const shown = states.filter(({ name }) => device.length === 0 || device.includes(name));
  if (json) {
    const objects = shown.map(({ name, state }) => stateObject(name, state));
    printOutput(`${plainJson(JSON.stringify(objects, null, 2))}\n`);
  } else {
    printOutput(shown.map(({ name, state }) => stateText(oneLine(name), state)).join(''));
  }
}

export const replayCommand = new Command('replay')
  .description('repeat a recorded run call by call and compare')
  .helpOption('-h, --help', 'show help')
  .argument('<file>', 'a recording of faraday run --record')
  .option('--engine <engine>', 'v8 or cell (default: v8)', toEngine)
  .option('--until <number>', 'stop after the event of this number', toEventNumber)
  .option('--state', 'print the state of every device then')
  .option('--device <name>', 'print only the state of this device; repeatable', collect, [])
  .option('--json', 'print the states as JSON')
  .action(async (file: string, flags: Flags) => {
    const { engine = 'v8', until, state } = flags;
    checkFlags(flags);
    await checkDevices(file, flags);
    const { replay } = await import('../replay/replay.ts');
    const result = replay(file, engine, until);
    if (state) return printStates(result, flags);
    const { events, devices, guestBytes } = result;
    const what = `${events} events of ${devices} devices, ${guestBytes} guest bytes`;
    const part = until === undefined ? '' : `up to event ${until} `;
    printOutput(`identical ${part}in engine ${engine}: ${what}\n`);
  });
