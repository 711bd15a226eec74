// A device's decoded state as lines for a person, and as JSON.
import { hexNumber, printable } from './names.ts';
import {
  i8042Command,
  rtcName,
  serialInterruptNames,
  serialLineNames,
  serialModemNames,
} from './port-registers.ts';
import type {
  DeviceState,
  HeadInFlight,
  I8042State,
  NetState,
  QueueState,
  RtcState,
  SerialState,
  VirtioState,
} from './state.ts';

type Row = [name: string, text: string];

const NAME_COLUMNS = 20;

const list = (names: readonly string[]): string => names.join(' ') || 'none';
const yesNo = (value: boolean): string => (value ? 'yes' : 'no');

function headText({ head, kind, generation, payloadBytes, statusAddress }: HeadInFlight): string {
  const told = statusAddress !== 0n && kind !== 'NET_RX';
  const status = told ? `, status at ${hexNumber(statusAddress)}` : '';
  return `head ${head}: ${kind}, generation ${generation}, ${payloadBytes} bytes${status}`;
}

function queueRows(queue: QueueState): Row[] {
  const name = `queue ${queue.index}`;
  if (!queue.ready && queue.size === 0) return [[name, 'not set up']];
  const { size, ready, availNext, usedNext, inFlight } = queue;
  return [
    [name, `size ${size}, ${ready ? 'ready' : 'not ready'}`],
    ['  descriptors', hexNumber(queue.descTable)],
    ['  available ring', `${hexNumber(queue.availRing)}, next index ${availNext}`],
    ['  used ring', `${hexNumber(queue.usedRing)}, next index ${usedNext}`],
    ...inFlight.map((head): Row => ['  in flight', headText(head)]),
    ...(queue.held?.length ? [['  oldest first', `heads ${queue.held.join(' ')}`] as Row] : []),
  ];
}

function netRows(state: NetState): Row[] {
  const link = state.linkUp ? 'up' : 'down';
  return [
    ['address', state.mac],
    ['link', `${link}${state.announce ? ', to be announced' : ''}`],
    ['queue pairs in use', String(state.queuePairs)],
    ['receive offloads', list(state.offloads)],
  ];
}

function virtioRows(kind: string, state: VirtioState): Row[] {
  const { deviceFeaturesSel, driverFeaturesSel, queueSel } = state;
  return [
    ['status', list(state.status)],
    ['driver features', list(state.driverFeatures)],
    ['interrupt status', list(state.interruptStatus)],
    ['selected', `queue ${queueSel}, features ${deviceFeaturesSel}, ${driverFeaturesSel}`],
    ['config generation', String(state.configGeneration)],
    ...(kind === 'virtio-blk' ? [['write cache', state.writeback ? 'on' : 'off'] as Row] : []),
    ...(state.featuresBeyond ? [['features past 63', 'accepted'] as Row] : []),
    ...state.queues.flatMap(queueRows),
  ];
}

const bytesText = (bytes: readonly number[]): string =>
  bytes.length === 0 ? 'empty' : `${bytes.length} bytes '${printable(Uint8Array.from(bytes))}'`;

function serialRows(state: SerialState): Row[] {
  return [
    ['IER', `${hexNumber(state.ier)} (${serialInterruptNames(state.ier)})`],
    ['LCR', `${hexNumber(state.lcr)} (${serialLineNames(state.lcr)})`],
    ['MCR', `${hexNumber(state.mcr)} (${serialModemNames(state.mcr)})`],
    ['FCR', hexNumber(state.fcr)],
    ['SCR', hexNumber(state.scr)],
    ['divisor', String(state.divisor)],
    ['MSR changes', hexNumber(state.msrDelta)],
    ['overrun', yesNo(state.overrun)],
    ['THR empty pending', yesNo(state.thrEmptyPending)],
    ['interrupt source', hexNumber(state.interruptSource)],
    ['receive FIFO', bytesText(state.receive)],
    ['transmit FIFO', bytesText(state.transmit)],
  ];
}

function rtcRows(state: RtcState): Row[] {
  const written = state.cmos.flatMap((byte, at) =>
    byte === 0 ? [] : [`${hexNumber(at)}: ${hexNumber(byte)}`],
  );
  return [
    ['time', `${state.unixSeconds} seconds since 1970`],
    ['index', `${hexNumber(state.index)} (${rtcName(state.index)})`],
    ['register A', hexNumber(state.registerA)],
    ['register B', hexNumber(state.registerB)],
    ['CMOS', list(written)],
  ];
}

function i8042Rows(state: I8042State): Row[] {
  const { pendingCommand } = state;
  return [
    ['command byte', hexNumber(state.control)],
    ['output buffer', `${hexNumber(state.data)}, ${state.full ? 'full' : 'empty'}`],
    ['pending command', pendingCommand === 0 ? 'none' : i8042Command(pendingCommand)],
    ['last write', state.lastWasCommand ? 'a command' : 'data'],
  ];
}

/** The lines of one device, each with its end. */
export function stateText(name: string, state: DeviceState): string {
  const incidents = Object.entries(state.incidents).map(([what, count]) => `${what} ${count}`);
  const rows: Row[] = [
    ...(state.virtio ? virtioRows(state.kind, state.virtio) : []),
    ...(state.net ? netRows(state.net) : []),
    ...(state.serial ? serialRows(state.serial) : []),
    ...(state.rtc ? rtcRows(state.rtc) : []),
    ...(state.i8042 ? i8042Rows(state.i8042) : []),
    ['incidents', incidents.join(', ') || 'none'],
  ];
  const lines = rows.map(([what, text]) => `  ${what.padEnd(NAME_COLUMNS)}${text}\n`);
  return `${name} (${state.kind})\n${lines.join('')}`;
}

/** The same as plain values: addresses, and what may pass 2^53, as text. */
export function stateObject(name: string, state: DeviceState): unknown {
  const text = JSON.stringify(state, (_, value) => {
    if (typeof value !== 'bigint') return value;
    return hexNumber(value);
  });
  return { device: name, ...JSON.parse(text) };
}
