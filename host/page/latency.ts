// I/O latency: from the event that gave a request to the host to the event that completed it. As a
// histogram, and over time; both are of the requests in the span that is shown.
import { byId, color, deviceColor, formatCount, formatSpan, surfaceOf } from './draw.ts';
import type { Model, Request } from './model.ts';
import type { View } from './view.ts';

const NEAR_PX = 14;
const LABELS_PX = 58; // left of the points
const BOTTOM_PX = 18;
const BAR_MIN_PX = 2; // of one among thousands, to be seen
const LABEL_GAP_PX = 8;

/** The bucket of a latency: below 2^bucket microseconds and not below half of that. */
const bucketOf = (us: number): number => (us < 1 ? 0 : Math.floor(Math.log2(us)) + 1);

interface Point {
  x: number;
  y: number;
  request: Request;
}

export class Latency {
  private readonly model: Model;
  private readonly view: View;
  private points: Point[] = [];

  constructor(model: Model, view: View) {
    this.model = model;
    this.view = view;
    const canvas = byId<HTMLCanvasElement>('latency');
    canvas.addEventListener('click', (event) => {
      const { left, top } = canvas.getBoundingClientRect();
      this.selectNear(event.clientX - left, event.clientY - top);
    });
    view.onChange(() => this.draw());
  }

  draw(): void {
    const { fromUs, toUs } = this.view;
    const shown = this.model.requests.filter((request) => {
      const startUs = this.model.timeUs(request.start);
      return request.end >= 0 && startUs >= fromUs && startUs <= toUs;
    });
    const latencies = shown.map((request) => this.model.latencyUs(request)).sort((a, b) => a - b);
    this.drawHistogram(latencies);
    this.drawPoints(shown, latencies.at(-1) ?? 1);
    const at = (share: number): string =>
      formatSpan(latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))]);
    byId('latency-summary').textContent =
      latencies.length === 0
        ? 'No request was completed in this span.'
        : `${formatCount(latencies.length)} requests: median ${at(0.5)}, ` +
          `99th percentile ${at(0.99)}, slowest ${at(1)}`;
  }

  private drawHistogram(latencies: readonly number[]): void {
    const { context, width, height } = surfaceOf(byId<HTMLCanvasElement>('histogram'));
    if (latencies.length === 0) return;
    const first = bucketOf(latencies[0]);
    const counts = new Array<number>(bucketOf(latencies.at(-1)!) - first + 1).fill(0);
    for (const latency of latencies) counts[bucketOf(latency) - first]++;
    const most = Math.max(...counts);
    const step = width / counts.length;
    const barWidth = Math.min(step - 4, 56);
    context.textAlign = 'center';
    let free = 0; // from here on no label is
    counts.forEach((count, index) => {
      const x = (index + 0.5) * step;
      const share = (count / most) * (height - BOTTOM_PX - 18);
      const length = count > 0 ? Math.max(share, BAR_MIN_PX) : 0;
      context.fillStyle = color('accent');
      context.fillRect(x - barWidth / 2, height - BOTTOM_PX - length, barWidth, length);
      context.fillStyle = color('muted');
      if (count > 0) context.fillText(formatCount(count), x, height - BOTTOM_PX - length - 4);
      const label = `< ${formatSpan(2 ** (first + index))}`;
      // Labels that would touch are left out.
      const half = context.measureText(label).width / 2;
      const middle = Math.min(Math.max(x, half), width - half);
      if (middle - half < free) return;
      context.fillText(label, middle, height - 4);
      free = middle + half + LABEL_GAP_PX;
    });
  }

  private drawPoints(shown: readonly Request[], mostUs: number): void {
    const { context, width, height } = surfaceOf(byId<HTMLCanvasElement>('latency'));
    const decades = Math.max(1, Math.ceil(Math.log10(Math.max(mostUs, 10))));
    const bottom = height - BOTTOM_PX / 2;
    const yOf = (us: number): number =>
      bottom - (Math.log10(Math.max(us, 1)) / decades) * (bottom - 10);
    context.textBaseline = 'middle';
    context.textAlign = 'right';
    for (let decade = 0; decade <= decades; decade++) {
      const y = yOf(10 ** decade);
      context.fillStyle = color('line');
      context.fillRect(LABELS_PX, Math.round(y), width - LABELS_PX, 1);
      context.fillStyle = color('muted');
      context.fillText(formatSpan(10 ** decade), LABELS_PX - 6, y);
    }
    const plotWidth = width - LABELS_PX - 6;
    this.points = shown.map((request) => ({
      x:
        LABELS_PX +
        ((this.model.timeUs(request.start) - this.view.fromUs) / this.view.spanUs) * plotWidth,
      y: yOf(this.model.latencyUs(request)),
      request,
    }));
    for (const { x, y, request } of this.points) {
      context.fillStyle = deviceColor(request.place);
      context.globalAlpha = 0.7;
      context.beginPath();
      context.arc(x, y, 3, 0, 2 * Math.PI);
      context.fill();
    }
    context.globalAlpha = 1;
    this.drawSelected(context);
  }

  private drawSelected(context: CanvasRenderingContext2D): void {
    const point = this.points.find(({ request }) => request === this.view.selected);
    if (!point) return;
    context.strokeStyle = color('text');
    context.lineWidth = 2;
    context.beginPath();
    context.arc(point.x, point.y, 6, 0, 2 * Math.PI);
    context.stroke();
  }

  private selectNear(x: number, y: number): void {
    let [nearest, distance]: [Request | null, number] = [null, NEAR_PX];
    for (const point of this.points) {
      const away = Math.hypot(point.x - x, point.y - y);
      if (away < distance) [nearest, distance] = [point.request, away];
    }
    if (nearest) this.view.select(nearest);
  }
}
