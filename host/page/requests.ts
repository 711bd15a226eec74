// The table of requests in the span that is shown, and the life of the selected one: from the
// doorbell to the interrupt.
import { accessText, requestText } from '../replay/words.ts';
import {
  byId,
  deviceColor,
  formatBytes,
  formatClock,
  formatCount,
  formatSpan,
  make,
} from './draw.ts';
import type { DecodedEvent, Model, Request } from './model.ts';
import type { View } from './view.ts';

const ROWS = 50;
const LOOK_AHEAD_EVENTS = 400; // for the driver's answer to an interrupt

export class Requests {
  private readonly model: Model;
  private readonly view: View;
  private readonly body = byId<HTMLTableSectionElement>('request-rows');
  private readonly order = byId<HTMLSelectElement>('request-order');
  private listed: Request[] = [];
  private page = 0;
  private span = '';

  constructor(model: Model, view: View) {
    this.model = model;
    this.view = view;
    this.order.addEventListener('change', () => this.turnTo(0));
    byId('requests-before').addEventListener('click', () => this.turnTo(this.page - 1));
    byId('requests-after').addEventListener('click', () => this.turnTo(this.page + 1));
    this.body.addEventListener('keydown', (event) => this.key(event));
    view.onChange(() => this.draw());
  }

  draw(): void {
    const span = `${this.view.fromUs} ${this.view.toUs}`;
    if (span !== this.span) this.page = 0;
    this.span = span;
    this.list();
    this.fill();
  }

  private turnTo(page: number): void {
    this.page = page;
    this.list();
    this.fill();
  }

  private list(): void {
    const { fromUs, toUs } = this.view;
    this.listed = this.model.requests.filter(({ start, end }) => {
      const endUs = end < 0 ? Number.POSITIVE_INFINITY : this.model.timeUs(end);
      return this.model.timeUs(start) <= toUs && endUs >= fromUs;
    });
    if (this.order.value === 'slowest') {
      const latency = (request: Request): number => this.model.latencyUs(request) || 0;
      this.listed.sort((one, other) => latency(other) - latency(one));
    }
  }

  private fill(): void {
    const first = this.page * ROWS;
    const rows = this.listed.slice(first, first + ROWS);
    const shownSelected = rows.includes(this.view.selected as Request);
    this.body.replaceChildren(
      ...rows.map((request, index) => this.row(request, shownSelected ? -1 : index)),
    );
    byId('request-count').textContent =
      this.listed.length === 0
        ? 'none in this span'
        : `${formatCount(first + 1)} to ${formatCount(first + rows.length)} of ` +
          formatCount(this.listed.length);
    byId<HTMLButtonElement>('requests-before').disabled = this.page === 0;
    byId<HTMLButtonElement>('requests-after').disabled = first + ROWS >= this.listed.length;
  }

  /** One row of the table; the first can be reached with the tab key unless another is selected. */
  private row(request: Request, index: number): HTMLTableRowElement {
    const { model, view } = this;
    const selected = request === view.selected;
    const row = make('tr');
    row.tabIndex = selected || index === 0 ? 0 : -1;
    row.setAttribute('aria-selected', String(selected));
    row.dataset.request = String(model.requests.indexOf(request));
    const device = make('td', 'device', model.machine.devices[request.place].name);
    device.style.setProperty('--dot', deviceColor(request.place));
    row.append(
      make('td', 'number', formatClock(model.timeUs(request.start))),
      device,
      make('td', '', request.kind),
      make('td', 'number', formatBytes(request.length)),
      make('td', 'number', formatSpan(model.latencyUs(request))),
    );
    row.addEventListener('click', () => view.select(request));
    return row;
  }

  private key(event: KeyboardEvent): void {
    const row = (event.target as HTMLElement).closest('tr');
    if (!row) return;
    const to: Record<string, Element | null> = {
      ArrowDown: row.nextElementSibling,
      ArrowUp: row.previousElementSibling,
    };
    if (event.key === 'Enter' || event.key === ' ') row.click();
    else if (to[event.key] instanceof HTMLElement) (to[event.key] as HTMLElement).focus();
    else return;
    event.preventDefault();
  }
}

interface Step {
  title: string;
  event: DecodedEvent;
  text: string;
}

/** Shows a request's whole life beside the table. */
export class Life {
  private readonly model: Model;
  private readonly view: View;
  private readonly panel = byId('life');
  private shown: Request | null = null;

  constructor(model: Model, view: View) {
    this.model = model;
    this.view = view;
    view.onChange(() => this.draw());
  }

  draw(): void {
    const { selected } = this.view;
    if (!selected || selected === this.shown) return;
    this.shown = selected;
    const steps = this.steps(selected);
    const { name } = this.model.machine.devices[selected.place];
    const latency = formatSpan(this.model.latencyUs(selected));
    const list = make('ol', 'steps');
    const startUs = this.model.timeUs(selected.kick);
    list.append(...steps.map((step) => this.item(step, startUs)));
    this.panel.replaceChildren(
      make('p', 'life-title', `${selected.kind} of ${formatBytes(selected.length)} on ${name}`),
      make('p', 'muted', `queue ${selected.queue}, head ${selected.head}, ${latency}`),
      list,
    );
  }

  private steps(request: Request): Step[] {
    const decode = (index: number): DecodedEvent => this.model.decode(index, 1)[0];
    const start = decode(request.start);
    const steps: Step[] = [];
    if (request.kick !== request.start) {
      const kick = decode(request.kick);
      const text = `${kick.register} = ${kick.value}: the doorbell of this and earlier requests`;
      steps.push({ title: 'Doorbell', event: { ...kick, accesses: [], names: [] }, text });
    }
    const doorbell = start.register ? `${start.register} = ${start.value}` : 'asked for the next';
    const record = start.request ? `; ${requestText(start.request)}` : '';
    const title = start.register ? 'Doorbell, chain, request' : 'Chain, request';
    steps.push({ title, event: start, text: `${doorbell}${record}` });
    if (request.end < 0) return steps;
    const end = decode(request.end);
    const irq = request.irq ? 'interrupt raised' : 'no interrupt asked for';
    steps.push({ title: 'Completion, used ring', event: end, text: `${end.meaning}; ${irq}` });
    return request.irq ? [...steps, ...this.answers(request)] : steps;
  }

  /** What the driver did on the interrupt: it reads its status and acknowledges it. */
  private answers({ end, place }: Request): Step[] {
    const steps: Step[] = [];
    for (const event of this.model.decode(end + 1, LOOK_AHEAD_EVENTS)) {
      if (event.place !== place) continue;
      const { register, kind, meaning } = event;
      if (kind === 'read' && register === 'InterruptStatus') {
        steps.push({ title: 'Interrupt seen', event, text: `InterruptStatus: ${meaning}` });
      } else if (kind === 'write' && register === 'InterruptACK') {
        return [...steps, { title: 'Acknowledged', event, text: `InterruptACK: ${meaning}` }];
      }
    }
    return steps;
  }

  private item({ title, event, text }: Step, startUs: number): HTMLLIElement {
    const item = make('li');
    const head = make('div', 'step-head');
    head.append(
      make('strong', '', title),
      make('span', 'muted', `event ${event.number}, +${formatSpan(event.timeUs - startUs)}`),
    );
    item.append(head, make('p', '', text));
    const accesses = accessList(event);
    if (accesses) item.append(accesses);
    return item;
  }
}

/** The accesses of an event, each in words; null for none. */
export function accessList(event: DecodedEvent): HTMLUListElement | null {
  if (event.accesses.length === 0) return null;
  const list = make('ul', 'accesses');
  event.accesses.forEach((access, index) => {
    list.append(make('li', '', accessText(access, event.names[index])));
  });
  return list;
}
