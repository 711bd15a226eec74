// Drawing on a canvas: its size in device pixels, the page's colours, axes, numbers with units.

export interface Surface {
  context: CanvasRenderingContext2D;
  width: number; // in CSS pixels, as the next
  height: number;
}

/** Makes the canvas as fine as the screen and empty. */
export function surfaceOf(canvas: HTMLCanvasElement): Surface {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext('2d') as CanvasRenderingContext2D;
  context.scale(scale, scale);
  context.font = getComputedStyle(canvas).font;
  return { context, width, height };
}

/** A colour of page.css, for the scheme of the moment. */
export function color(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

const SERIES = 8;

/** The colour of a device, by its place. */
export function deviceColor(place: number): string {
  return color(`series-${place % SERIES}`);
}

/** Round numbers from `from` to `to`, about `count` of them. */
export function ticks(from: number, to: number, count: number): number[] {
  const span = to - from;
  if (!(span > 0)) return [from];
  const rough = span / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough) ?? rough;
  const found: number[] = [];
  let value = Math.ceil(from / step) * step;
  // Past 2^53 a step may lead nowhere.
  for (let left = count + 1; left > 0 && value <= to; left--, value += step) found.push(value);
  return found;
}

const trimmed = (value: number, digits: number): string => String(Number(value.toFixed(digits)));

/** A time of the recording: milliseconds below a second, seconds above. */
export function formatTime(us: number): string {
  if (us >= 1e6) return `${trimmed(us / 1e6, 4)} s`;
  return us >= 1000 || us === 0 ? `${trimmed(us / 1000, 3)} ms` : `${trimmed(us, 0)} µs`;
}

/** The same always in milliseconds, as the lines of `faraday trace` have it. */
export const formatClock = (us: number): string => (us / 1000).toFixed(3);

/** How long something took, to three figures. */
export function formatSpan(us: number): string {
  if (Number.isNaN(us)) return 'never done';
  if (us < 1000) return `${trimmed(us, 0)} µs`;
  const ms = us / 1000;
  if (ms < 1000) return `${trimmed(ms, ms < 10 ? 2 : 1)} ms`;
  return `${trimmed(ms / 1000, 2)} s`;
}

export function formatBytes(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 2 ** 20) return `${trimmed(bytes / 1024, 1)} KiB`;
  return `${trimmed(bytes / 2 ** 20, 1)} MiB`;
}

export const formatCount = (value: number): string => value.toLocaleString('en');

/** An element with a class and text. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className = '',
  text = '',
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

/** The element with that id, which page.html has. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}
