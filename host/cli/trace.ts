// `faraday trace`: what a recording holds, event by event, or as a page for a browser.
import { Command } from 'commander';
import { FaradayError } from '../errors.ts';
import { oneLine, plainJson, printOutput } from '../log.ts';
import type { Filter } from '../replay/list.ts';
import type { Recording } from '../replay/recording.ts';
import { collect } from './repeatable.ts';

const CHUNK_CHARACTERS = 0x10000;
const NAME_COLUMNS_MAX = 32; // a longer name is not cut, but the others keep their places

interface Flags {
  device: string[];
  kind: string[];
  from?: string;
  to?: string;
  accesses?: boolean;
  json?: boolean;
  html?: string;
}

const usage = (message: string): FaradayError => new FaradayError('bad-usage', message);

function toMicroseconds(flag: string, text: string | undefined, otherwise: number): number {
  if (text === undefined) return otherwise;
  if (/^\d+(\.\d+)?$/.test(text)) {
    // 1.005 * 1000 is less than 1005: an event at that time would be left out.
    return Math.round(Number(text) * 1e6) / 1000;
  }
  throw usage(`${flag} '${text}' is no time; give milliseconds, such as 12 or 12.345`);
}

function oneOf(flag: string, value: string, known: readonly string[]): string {
  if (known.includes(value)) return value;
  throw usage(`${flag} '${value}' is unknown; known are ${known.join(', ')}`);
}

function filterOf(flags: Flags, recording: Recording, kinds: readonly string[]): Filter {
  const names = recording.machine.devices.map(({ name }) => name);
  const fromUs = toMicroseconds('--from', flags.from, 0);
  const toUs = toMicroseconds('--to', flags.to, Number.POSITIVE_INFINITY);
  if (fromUs > toUs) throw usage(`--from ${flags.from} is after --to ${flags.to}; exchange them`);
  return {
    devices: flags.device.map((name) => oneOf('--device', name, names)),
    kinds: flags.kind.map((kind) => oneOf('--kind', kind, kinds)),
    fromUs,
    toUs,
  };
}

/** Waits until what was printed is on its way; false where its reader left. */
async function printed(): Promise<boolean> {
  const { stdout } = process;
  if (stdout.writableNeedDrain) {
    await new Promise<void>((resolve) => {
      const events = ['drain', 'close', 'error'];
      const done = (): void => {
        for (const event of events) stdout.off(event, done);
        resolve();
      };
      for (const event of events) stdout.on(event, done);
    });
  }
  return !stdout.destroyed;
}

async function list(recording: Recording, flags: Flags): Promise<void> {
  const { Tracer } = await import('../replay/trace.ts');
  const { accessLine, eventJson, eventLine, KINDS, passes } = await import('../replay/list.ts');
  const filter = filterOf(flags, recording, KINDS);
  const tracer = new Tracer(recording.machine.devices);
  const lengths = recording.machine.devices.map(({ name }) => name.length);
  const columns = Math.min(Math.max(...lengths, 0), NAME_COLUMNS_MAX);
  let chunk = '';
  try {
    for (const event of recording.events()) {
      const traced = tracer.take(event);
      if (traced.timeUs > filter.toUs) break; // times never go back
      if (!passes(traced, filter)) continue;
      const names = flags.accesses ? tracer.accessNames(event) : null;
      if (flags.json) chunk += `${plainJson(eventJson(traced, names))}\n`;
      else {
        chunk += `${oneLine(eventLine(traced, columns))}\n`;
        for (const [index, name] of (names ?? []).entries()) {
          chunk += `${accessLine(event.parsed[index], name)}\n`;
        }
      }
      if (chunk.length < CHUNK_CHARACTERS) continue;
      printOutput(chunk);
      chunk = '';
      if (!(await printed())) return;
    }
  } finally {
    printOutput(chunk); // also what stands before a place that is damaged
  }
}

async function makePage(recording: Recording, flags: Flags, path: string): Promise<void> {
  const { device, kind, from, to, accesses, json } = flags;
  const others = { '--from': from, '--to': to, '--accesses': accesses, '--json': json };
  const given = Object.entries(others).find(([, value]) => value !== undefined)?.[0];
  const listed = given ?? (device.length > 0 ? '--device' : kind.length > 0 && '--kind');
  if (listed) throw usage(`--html shows a whole recording; leave ${listed} out, or --html`);
  const { writePage } = await import('../trace-page.ts');
  printOutput(`${oneLine(writePage(recording, path))}\n`);
}

export const traceCommand = new Command('trace')
  .description('list what a recorded run did, or make a page of it')
  .helpOption('-h, --help', 'show help')
  .argument('<file>', 'a recording of faraday run --record')
  .option('--device <name>', 'only events of this device; repeatable', collect, [])
  .option('--kind <kind>', 'only events of this call or effect; repeatable', collect, [])
  .option('--from <ms>', 'only events from this time on, in milliseconds')
  .option('--to <ms>', 'only events up to this time, in milliseconds')
  .option('--accesses', 'list each access to guest memory below its event')
  .option('--json', 'print one JSON object a line')
  .option('--html <file>', 'write a page for a browser instead: timeline, latency, requests')
  .action(async (file: string, flags: Flags) => {
    const { Recording } = await import('../replay/recording.ts');
    const recording = new Recording(file);
    try {
      if (flags.html === undefined) await list(recording, flags);
      else await makePage(recording, flags, flags.html);
    } finally {
      recording.close();
    }
  });
