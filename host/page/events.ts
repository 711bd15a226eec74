// The list of events from the start of the shown span on, or from where it was turned to, each with
// its accesses to guest memory on demand.
import { eventText } from '../replay/words.ts';
import { byId, deviceColor, formatClock, make } from './draw.ts';
import type { DecodedEvent, Model } from './model.ts';
import { accessList } from './requests.ts';
import type { View } from './view.ts';

const ROWS = 40;

export class Events {
  private readonly model: Model;
  private readonly view: View;
  private readonly number = byId<HTMLInputElement>('event-number');
  private first = 0;
  private followed = '';

  constructor(model: Model, view: View) {
    this.model = model;
    this.view = view;
    this.number.max = String(model.count);
    byId('events-before').addEventListener('click', () => this.goTo(this.first - ROWS));
    byId('events-after').addEventListener('click', () => this.goTo(this.first + ROWS));
    byId('event-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.goTo(Number(this.number.value) - 1);
    });
    view.onChange(() => this.follow());
  }

  /** Follows the timeline: to the selected request, else to the start of the span. */
  follow(): void {
    const { fromUs, selected } = this.view;
    const now = `${fromUs} ${selected?.start ?? ''}`;
    if (now === this.followed) return;
    const [, before] = this.followed.split(' ');
    this.followed = now;
    const isNew = selected && before !== String(selected.start);
    this.goTo(isNew ? selected.kick : this.model.firstFrom(fromUs));
  }

  goTo(event: number): void {
    const last = Math.max(this.model.count - 1, 0);
    this.first = Math.min(Math.max(Math.floor(event) || 0, 0), last);
    this.number.value = String(this.first + 1);
    const decoded = this.model.decode(this.first, ROWS);
    byId('event-rows').replaceChildren(...decoded.map((each) => this.row(each)));
    byId<HTMLButtonElement>('events-before').disabled = this.first === 0;
    byId<HTMLButtonElement>('events-after').disabled = this.first + ROWS > last;
  }

  private row(event: DecodedEvent): HTMLTableRowElement {
    const row = make('tr');
    const device = make('td', 'device', event.device);
    device.style.setProperty('--dot', deviceColor(event.place));
    const what = make('td', 'what');
    const accesses = accessList(event);
    if (accesses) {
      const details = make('details');
      details.append(make('summary', '', eventText(event)), accesses);
      what.append(details);
    } else {
      what.textContent = eventText(event);
    }
    const effects = event.trapped ? ['TRAP'] : event.effects;
    row.append(
      make('td', 'number', String(event.number)),
      make('td', 'number', formatClock(event.timeUs)),
      device,
      make('td', '', event.kind),
      what,
      make('td', 'muted', effects.join(' ')),
    );
    return row;
  }
}
