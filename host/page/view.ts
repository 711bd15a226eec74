// What is shown at the moment: a span of time, and the selected request. Parts of the page change
// it here and hear of every change.
import type { Model, Request } from './model.ts';

const SPAN_MIN_US = 20;

export class View {
  fromUs = 0;
  toUs: number;
  selected: Request | null = null;
  private readonly endUs: number;
  private readonly listeners: (() => void)[] = [];
  private pending = false;

  constructor(model: Model) {
    this.endUs = Math.max(model.endUs, SPAN_MIN_US);
    this.toUs = this.endUs;
  }

  get spanUs(): number {
    return this.toUs - this.fromUs;
  }

  get whole(): boolean {
    return this.fromUs === 0 && this.toUs === this.endUs;
  }

  /** Calls back after changes, at most once a frame. */
  onChange(listener: () => void): void {
    this.listeners.push(listener);
  }

  show(fromUs: number, toUs: number): void {
    const span = Math.min(Math.max(toUs - fromUs, SPAN_MIN_US), this.endUs);
    this.fromUs = Math.min(Math.max(fromUs, 0), this.endUs - span);
    this.toUs = this.fromUs + span;
    this.changed();
  }

  showAll(): void {
    this.show(0, this.endUs);
  }

  /** Zooms by a factor around a time. */
  zoom(factor: number, aroundUs = (this.fromUs + this.toUs) / 2): void {
    const span = Math.min(this.spanUs * factor, this.endUs);
    const share = (aroundUs - this.fromUs) / this.spanUs;
    this.show(aroundUs - share * span, aroundUs + (1 - share) * span);
  }

  /** Moves by a share of what is shown. */
  pan(share: number): void {
    this.show(this.fromUs + share * this.spanUs, this.toUs + share * this.spanUs);
  }

  select(request: Request | null): void {
    this.selected = request;
    this.changed();
  }

  changed(): void {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      for (const listener of this.listeners) listener();
    });
  }
}
