// The timeline: phases, exits per millisecond, one lane a device with its events and requests, and
// the axis. All share one span of time; dragging, the buttons and keys change it.

import { isVirtio, kindName } from '../replay/names.ts';
import {
  byId,
  color,
  deviceColor,
  formatCount,
  formatTime,
  make,
  surfaceOf,
  ticks,
} from './draw.ts';
import type { Model, Request } from './model.ts';
import type { View } from './view.ts';

const BINS_MAX = 1_000_000;
const MS = 1000; // microseconds
const NEAR_PX = 8;
const DRAG_PX = 4; // less is a click
const NAMES_PX = 16; // above the chart, for the names of phases
const PAN = 0.25;
const ZOOM = 0.5;

interface Lane {
  place: number;
  canvas: HTMLCanvasElement;
  counts: Uint32Array; // events by pixel
}

/** Exits in equal bins of a millisecond, or of more where a run is very long. */
class Bins {
  readonly binUs: number;
  readonly counts: Uint32Array;

  constructor(model: Model) {
    this.binUs = Math.max(MS, Math.ceil(model.endUs / BINS_MAX));
    this.counts = new Uint32Array(Math.floor(model.endUs / this.binUs) + 1);
    for (let event = 0; event < model.count; event++) {
      if (model.isExit(event)) this.counts[Math.floor(model.timeUs(event) / this.binUs)]++;
    }
  }

  /** The most and the mean exits a millisecond in a span. */
  between(fromUs: number, toUs: number): { most: number; mean: number } {
    const first = Math.max(0, Math.floor(fromUs / this.binUs));
    const last = Math.min(this.counts.length - 1, Math.ceil(toUs / this.binUs) - 1);
    let [most, sum] = [0, 0];
    for (let bin = first; bin <= last; bin++) {
      sum += this.counts[bin];
      if (this.counts[bin] > most) most = this.counts[bin];
    }
    const perMs = MS / this.binUs;
    return { most: most * perMs, mean: (sum / Math.max(1, last - first + 1)) * perMs };
  }
}

export class Timeline {
  private readonly model: Model;
  private readonly view: View;
  private readonly bins: Bins;
  private readonly lanes: Lane[] = [];
  private readonly plot = byId('plot');
  private readonly exits = byId<HTMLCanvasElement>('exits');
  private readonly brush = byId('brush');

  constructor(model: Model, view: View) {
    this.model = model;
    this.view = view;
    this.bins = new Bins(model);
    model.machine.devices.forEach((_, place) => {
      this.addLane(place);
    });
    this.listenToPointer();
    this.listenToKeys();
    this.plot.tabIndex = 0;
    this.plot.setAttribute('role', 'application'); // its keys are its own
    this.plot.setAttribute(
      'aria-label',
      'Timeline. Arrows move and zoom, Home shows the whole run.',
    );
    const buttons: Record<string, () => void> = {
      'zoom-in': () => view.zoom(ZOOM),
      'zoom-out': () => view.zoom(1 / ZOOM),
      earlier: () => view.pan(-PAN),
      later: () => view.pan(PAN),
      whole: () => view.showAll(),
    };
    for (const [id, act] of Object.entries(buttons)) byId(id).addEventListener('click', act);
    view.onChange(() => this.draw());
  }

  draw(): void {
    byId('range').textContent = `${formatTime(this.view.fromUs)} to ${formatTime(this.view.toUs)}`;
    byId<HTMLButtonElement>('whole').disabled = this.view.whole;
    this.drawExits();
    this.count();
    for (const lane of this.lanes) this.drawLane(lane);
    this.drawAxis();
  }

  private addLane(place: number): void {
    const { name, kind } = this.model.machine.devices[place];
    const row = make('div', 'row lane');
    row.dataset.device = name;
    const label = make('span', 'label', name);
    label.title = `${name} (${kindName(kind)})`;
    label.style.setProperty('--dot', `var(--series-${place % 8})`);
    const canvas = make('canvas');
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', `events of ${name} over time`);
    row.append(label, canvas);
    byId('lanes').append(row);
    this.lanes.push({ place, canvas, counts: new Uint32Array(0) });
  }

  private xOf(timeUs: number, width: number): number {
    return ((timeUs - this.view.fromUs) / this.view.spanUs) * width;
  }

  private drawExits(): void {
    const { context, width, height } = surfaceOf(this.exits);
    const { fromUs, spanUs } = this.view;
    const columns = Array.from({ length: Math.ceil(width) }, (_, x) =>
      this.bins.between(fromUs + (x / width) * spanUs, fromUs + ((x + 1) / width) * spanUs),
    );
    const top = Math.max(1, ...columns.map(({ most }) => most));
    const bar = (x: number, value: number): void => {
      const length = (value / top) * (height - NAMES_PX);
      context.fillRect(x, height - length, 1, length);
    };
    context.fillStyle = color('accent-soft');
    columns.forEach(({ most }, x) => {
      bar(x, most);
    });
    context.fillStyle = color('accent');
    columns.forEach(({ mean }, x) => {
      bar(x, mean);
    });
    this.drawPhases(context, width, height);
    this.namePhases(context, width);
    byId('peak').textContent = `peak ${formatCount(Math.round(top))}`;
  }

  /** Events by lane and pixel, in one pass over what is shown. */
  private count(): void {
    const { model, view } = this;
    for (const lane of this.lanes) lane.counts = new Uint32Array(lane.canvas.clientWidth + 1);
    const width = this.lanes[0]?.canvas.clientWidth ?? 0;
    for (let event = model.firstFrom(view.fromUs); event < model.count; event++) {
      const timeUs = model.timeUs(event);
      if (timeUs > view.toUs) break;
      this.lanes[model.place(event)].counts[Math.floor(this.xOf(timeUs, width))]++;
    }
  }

  private drawLane({ place, canvas, counts }: Lane): void {
    const { context, width, height } = surfaceOf(canvas);
    const hasRequests = isVirtio(this.model.machine.devices[place].kind);
    const ticksHeight = hasRequests ? height * 0.42 : height - 8;
    const most = Math.log1p(Math.max(1, ...counts));
    context.fillStyle = deviceColor(place);
    counts.forEach((count, x) => {
      if (count === 0) return;
      context.globalAlpha = 0.35 + (0.65 * Math.log1p(count)) / most;
      context.fillRect(x, hasRequests ? 3 : 4, 1.5, ticksHeight);
    });
    context.globalAlpha = 1;
    if (hasRequests) this.drawRequests(context, place, width, height);
    this.drawPhases(context, width, height);
  }

  private drawRequests(
    context: CanvasRenderingContext2D,
    place: number,
    width: number,
    height: number,
  ): void {
    const y = height * 0.58;
    context.globalAlpha = 0.75;
    for (const request of this.model.requests) {
      if (request.place !== place) continue;
      const [from, to] = this.ends(request, width);
      if (to < 0 || from > width) continue;
      context.fillRect(from, y, Math.max(1.5, to - from), height - y - 3);
    }
    context.globalAlpha = 1;
    const { selected } = this.view;
    if (selected?.place !== place) return;
    const [from, to] = this.ends(selected, width);
    context.fillStyle = color('text');
    context.fillRect(from - 1, y - 2, Math.max(4, to - from + 2), height - y);
  }

  /** Where a request's bar begins and ends. */
  private ends({ start, end }: Request, width: number): [number, number] {
    const from = this.xOf(this.model.timeUs(start), width);
    return [from, end < 0 ? width : this.xOf(this.model.timeUs(end), width)];
  }

  private drawPhases(context: CanvasRenderingContext2D, width: number, height: number): void {
    context.fillStyle = color('phase');
    for (const { event } of this.model.phases) {
      const x = this.xOf(this.model.timeUs(event), width);
      if (x >= 0 && x <= width) context.fillRect(Math.round(Math.min(x, width - 1)), 0, 1, height);
    }
  }

  /** Names beside the lines of phases, as far as they do not touch. */
  private namePhases(context: CanvasRenderingContext2D, width: number): void {
    context.textBaseline = 'top';
    let free = 0;
    for (const { name, event } of this.model.phases) {
      const x = this.xOf(this.model.timeUs(event), width);
      const length = context.measureText(name).width;
      const from = x + 4 + length <= width ? x + 4 : x - 4 - length;
      if (x < 0 || x > width || from < free) continue;
      context.fillText(name, from, 1);
      free = from + length + 8;
    }
  }

  private drawAxis(): void {
    const { context, width, height } = surfaceOf(byId<HTMLCanvasElement>('axis'));
    const { fromUs, toUs } = this.view;
    context.textBaseline = 'bottom';
    for (const tick of ticks(fromUs, toUs, width / 110)) {
      const x = this.xOf(tick, width);
      context.fillStyle = color('line');
      context.fillRect(Math.round(x), 0, 1, 5);
      context.fillStyle = color('muted');
      const text = formatTime(tick);
      const half = context.measureText(text).width / 2;
      context.fillText(text, Math.min(Math.max(x - half, 0), width - 2 * half), height - 1);
    }
  }

  // --- Pointer and keys --------------------------------------------------------------------------

  private timeAt(clientX: number): number {
    const { left, width } = this.exits.getBoundingClientRect();
    const share = Math.min(Math.max((clientX - left) / width, 0), 1);
    return this.view.fromUs + share * this.view.spanUs;
  }

  private listenToPointer(): void {
    let startX: number | null = null;
    this.plot.addEventListener('pointerdown', (event) => {
      if (event.button !== 0 || !(event.target instanceof HTMLCanvasElement)) return;
      startX = event.clientX;
      this.plot.setPointerCapture(event.pointerId);
    });
    this.plot.addEventListener('pointermove', (event) => {
      if (startX !== null) this.showBrush(startX, event.clientX);
    });
    this.plot.addEventListener('pointercancel', () => {
      startX = null;
      this.brush.hidden = true;
    });
    this.plot.addEventListener('pointerup', (event) => {
      if (startX === null) return;
      const from = startX;
      startX = null;
      this.brush.hidden = true;
      if (Math.abs(event.clientX - from) < DRAG_PX) return this.click(event.clientX, event.clientY);
      const times = [this.timeAt(from), this.timeAt(event.clientX)].sort((a, b) => a - b);
      this.view.show(times[0], times[1]);
    });
  }

  private showBrush(fromX: number, toX: number): void {
    const { left } = this.plot.getBoundingClientRect();
    const bounds = this.exits.getBoundingClientRect();
    const inside = (x: number): number => Math.min(Math.max(x, bounds.left), bounds.right);
    const [from, to] = [inside(fromX), inside(toX)].sort((a, b) => a - b);
    this.brush.hidden = false;
    this.brush.style.left = `${from - left}px`;
    this.brush.style.width = `${to - from}px`;
  }

  /** Selects the request nearest to the pointer in the lane below it. */
  private click(clientX: number, clientY: number): void {
    const lane = this.lanes.find(({ canvas }) => {
      const { top, bottom } = canvas.getBoundingClientRect();
      return clientY >= top && clientY < bottom;
    });
    if (!lane) return;
    const { left, width } = lane.canvas.getBoundingClientRect();
    const x = clientX - left;
    let [nearest, distance]: [Request | null, number] = [null, NEAR_PX];
    for (const request of this.model.requests) {
      if (request.place !== lane.place) continue;
      const [from, to] = this.ends(request, width);
      const away = Math.max(from - x, x - to, 0);
      if (away < distance) [nearest, distance] = [request, away];
    }
    if (nearest) this.view.select(nearest);
  }

  private listenToKeys(): void {
    const keys: Record<string, () => void> = {
      ArrowLeft: () => this.view.pan(-PAN),
      ArrowRight: () => this.view.pan(PAN),
      ArrowUp: () => this.view.zoom(ZOOM),
      ArrowDown: () => this.view.zoom(1 / ZOOM),
      '+': () => this.view.zoom(ZOOM),
      '-': () => this.view.zoom(1 / ZOOM),
      Home: () => this.view.showAll(),
    };
    this.plot.addEventListener('keydown', (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
      event.preventDefault();
      keys[event.key]();
    });
  }
}
