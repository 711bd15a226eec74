// The page that `faraday trace --html` writes. Everything is in the one file: this script, the
// style, and the recording itself, deflated, in base64; nothing is asked of a network.
import { byId, formatCount, formatTime, make } from './draw.ts';
import { Events } from './events.ts';
import { Latency } from './latency.ts';
import { Model } from './model.ts';
import { Life, Requests } from './requests.ts';
import { Timeline } from './timeline.ts';
import { View } from './view.ts';

interface About {
  name: string; // of the recording's file
  note: string; // what is wrong with it, or empty
}

async function recordingBytes(): Promise<Uint8Array> {
  const text = atob(byId('recording').textContent ?? '');
  const deflated = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) deflated[at] = text.charCodeAt(at);
  const stream = new Blob([deflated]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function tell(model: Model, about: About): void {
  document.title = `${about.name} - faraday trace`;
  byId('name').textContent = about.name;
  const { engine, memoryBytes, devices, coreHash } = model.machine;
  const core = Array.from(coreHash.subarray(0, 6), (byte) => byte.toString(16).padStart(2, '0'));
  const facts: [string, string][] = [
    ['engine', engine],
    ['guest memory', `${memoryBytes / 2 ** 20} MiB`],
    ['devices', String(devices.length)],
    ['events', formatCount(model.count)],
    ['requests', formatCount(model.requests.length)],
    ['time', formatTime(model.endUs)],
    ['core', core.join('')],
  ];
  byId('facts').append(
    ...facts.map(([name, value]) => {
      const fact = make('div');
      fact.append(make('dt', '', name), make('dd', '', value));
      return fact;
    }),
  );
  byId('note').textContent = about.note;
  byId('note').hidden = about.note === '';
}

function listPhases(model: Model, view: View): void {
  let before = 0;
  const items = model.phases.map(({ name, event }) => {
    const timeUs = model.timeUs(event);
    const button = make('button', 'phase');
    button.type = 'button';
    button.append(
      make('span', 'phase-name', name),
      make('span', 'phase-time', formatTime(timeUs)),
      make('span', 'muted', `+${formatTime(timeUs - before)}`),
    );
    button.addEventListener('click', () => {
      view.show(timeUs - view.spanUs / 20, timeUs + view.spanUs / 20);
    });
    before = timeUs;
    const item = make('li');
    item.append(button);
    return item;
  });
  if (items.length === 0)
    items.push(make('li', 'muted', 'No phase of a boot is in this recording.'));
  byId('phases').replaceChildren(...items);
}

async function main(): Promise<void> {
  const about = JSON.parse(byId('about').textContent ?? '') as About;
  const model = new Model(await recordingBytes());
  const view = new View(model);
  tell(model, about);
  listPhases(model, view);
  byId('loading').remove();
  byId('main').hidden = false;
  const parts = [
    new Timeline(model, view),
    new Latency(model, view),
    new Requests(model, view),
    new Life(model, view),
    new Events(model, view),
  ];
  // The parts draw at every change; the screen's own changes count as one.
  new ResizeObserver(() => view.changed()).observe(byId('main'));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => view.changed());
  document.documentElement.dataset.parts = String(parts.length);
  view.changed();
}

main().catch((error: Error) => {
  byId('loading').textContent = `This page cannot show its recording: ${error.message}`;
  throw error;
});
