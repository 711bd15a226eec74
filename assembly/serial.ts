// COM1: a 16550A UART.
// National Semiconductor PC16550D data sheet, sections 8.0 to 8.8. Left out: baud rate timing,
// parity, framing and break conditions, DMA signalling. There is no clock in a cage, so the receive
// time-out (8.4) is due as soon as fewer bytes than the trigger level wait.
//
// Serial (at PORT_DEVICE):
//   +0 ier  +1 lcr  +2 mcr  +3 scr  +4 dll  +5 dlm  +6 fcr  +7 overrun (LSR bit 1, latched)
//   +8 msrDelta  +9 thrEmptyPending  +10 source (what holds the interrupt line)  +11 receiveHead
//   +12 receiveCount  +13 transmitCount  +16 receive FIFO, 16 bytes  +32 transmit FIFO, 16 bytes
import {
  EFFECT_INPUT_SPACE, EFFECT_IRQ, EFFECT_OUTPUT, EFFECT_REQUEST, INBOX, INCIDENT_OVERRUN,
  INCIDENT_REGISTER, INCIDENT_WIDTH, REQUEST, REQUEST_FLAGS, REQUEST_KIND,
  REQUEST_KIND_CONSOLE_OUT, REQUEST_LENGTH, REQUEST_OFFSET, REQUEST_RANGES, REQUEST_RANGE_COUNT,
  REQUEST_TAG,
} from "./abi";
import { PORT_DEVICE } from "./layout";
import { answer, incident, readAbsent, readBadWidth } from "./registers";

const UART_RX_TX: u32 = 0; // RBR R, THR W; DLL with DLAB
const UART_IER: u32 = 1; // R/W; DLM with DLAB
const UART_IIR_FCR: u32 = 2; // IIR R, FCR W
const UART_LCR: u32 = 3; // R/W
const UART_MCR: u32 = 4; // R/W
const UART_LSR: u32 = 5; // R
const UART_MSR: u32 = 6; // R
const UART_SCR: u32 = 7; // R/W

const UART_IER_RDI: u8 = 0x01; // received data
const UART_IER_THRI: u8 = 0x02; // transmitter holding register empty
const UART_IER_RLSI: u8 = 0x04; // receiver line status
const UART_IER_MSI: u8 = 0x08; // modem status
const UART_IER_MASK: u8 = 0x0f;

const UART_IIR_MSI: u8 = 0x00;
const UART_IIR_NO_INT: u8 = 0x01;
const UART_IIR_THRI: u8 = 0x02;
const UART_IIR_RDI: u8 = 0x04;
const UART_IIR_RLSI: u8 = 0x06;
const UART_IIR_RX_TIMEOUT: u8 = 0x0c;
const UART_IIR_FIFO_ENABLED: u8 = 0xc0;

const UART_FCR_ENABLE_FIFO: u8 = 0x01;
const UART_FCR_CLEAR_RCVR: u8 = 0x02;
const UART_FCR_CLEAR_XMIT: u8 = 0x04;
const UART_FCR_KEPT: u8 = 0xc9; // trigger level, DMA mode, enable: the clear bits reset themselves

const UART_LCR_DLAB: u8 = 0x80;
const UART_MCR_OUT2: u8 = 0x08; // on a PC, OUT2 connects the interrupt output to the line
const UART_MCR_LOOP: u8 = 0x10;
const UART_MCR_MASK: u8 = 0x1f;

const UART_LSR_DR: u8 = 0x01;
const UART_LSR_OE: u8 = 0x02;
const UART_LSR_THRE: u8 = 0x20;
const UART_LSR_TEMT: u8 = 0x40;

const UART_MSR_TERI: u8 = 0x04;
const UART_MSR_DELTA: u8 = 0x0f;
const UART_MSR_CTS: u8 = 0x10;
const UART_MSR_DSR: u8 = 0x20;
const UART_MSR_RI: u8 = 0x40;
const UART_MSR_DCD: u8 = 0x80;

const DIVISOR_POWER_ON: u8 = 12; // 9,600 baud
const RECEIVE_FIFO: usize = PORT_DEVICE + 16;
const TRANSMIT_FIFO: usize = PORT_DEVICE + 32;
const FIFO_BYTES: u8 = 16;
export const SERIAL_BYTES: usize = 48; // of state

@unmanaged class Serial {
  ier: u8;
  lcr: u8;
  mcr: u8;
  scr: u8;
  dll: u8;
  dlm: u8;
  fcr: u8;
  overrun: u8;
  msrDelta: u8;
  thrEmptyPending: u8;
  source: u8;
  receiveHead: u8;
  receiveCount: u8;
  transmitCount: u8;
}
if (offsetof<Serial>() != 14) ERROR("Serial moved: snapshots would break");

// @ts-ignore: decorator
@inline function device(): Serial {
  return changetype<Serial>(PORT_DEVICE);
}

export function serialReset(): void {
  memory.fill(PORT_DEVICE, 0, SERIAL_BYTES);
  const self = device();
  self.dll = DIVISOR_POWER_ON;
  self.source = UART_IIR_NO_INT;
}

export function serialValid(): bool {
  const self = device();
  return self.ier <= UART_IER_MASK && self.mcr <= UART_MCR_MASK &&
    (self.fcr & ~UART_FCR_KEPT) == 0 && (self.fcr == 0 || (self.fcr & UART_FCR_ENABLE_FIFO) != 0) &&
    self.overrun <= 1 && self.msrDelta <= UART_MSR_DELTA && self.thrEmptyPending <= 1 &&
    self.receiveHead < FIFO_BYTES && self.receiveCount <= capacity(self) &&
    self.transmitCount <= capacity(self) && self.source == lineSource(self);
}

export function serialRead(offset: u32, width: u32): u32 {
  if (width != 1) return readBadWidth(width);
  const self = device();
  const latch = self.lcr & UART_LCR_DLAB;
  switch (offset) {
    case UART_RX_TX: return latch ? answer(self.dll) : readReceiver(self);
    case UART_IER: return answer(latch ? self.dlm : self.ier);
    case UART_IIR_FCR: return readIdentification(self);
    case UART_LCR: return answer(self.lcr);
    case UART_MCR: return answer(self.mcr);
    case UART_LSR: return readLineStatus(self);
    case UART_MSR:
      answer(modemLines(self) | self.msrDelta);
      self.msrDelta = 0; // reading clears the delta bits (8.8)
      return updateLine(self);
    case UART_SCR: return answer(self.scr);
    default: return readAbsent(width);
  }
}

export function serialWrite(offset: u32, width: u32, value: u32): u32 {
  if (width != 1) return incident(INCIDENT_WIDTH);
  const self = device();
  const byte = <u8>value;
  const latch = self.lcr & UART_LCR_DLAB;
  switch (offset) {
    case UART_RX_TX:
      if (!latch) return writeTransmitter(self, byte);
      self.dll = byte;
      return 0;
    case UART_IER:
      if (!latch) return writeInterruptEnable(self, byte);
      self.dlm = byte;
      return 0;
    case UART_IIR_FCR: return writeFifoControl(self, byte);
    case UART_LCR:
      self.lcr = byte;
      return 0;
    case UART_MCR: return writeModemControl(self, byte);
    case UART_LSR: // factory test only (8.6.3)
    case UART_MSR: return 0;
    case UART_SCR:
      self.scr = byte;
      return 0;
    default: return incident(INCIDENT_REGISTER);
  }
}

/** Takes console bytes from the inbox, as many as the receive FIFO has room for. */
export function serialInput(length: u32): u32 {
  const self = device();
  // In loop-back mode the receiver is cut off from the wire: the host keeps its bytes (8.6.4).
  const room: u32 = self.mcr & UART_MCR_LOOP ? 0 : capacity(self) - self.receiveCount;
  const taken = min<u32>(length, room);
  for (let i: u32 = 0; i < taken; i++) pushReceived(self, load<u8>(INBOX + i));
  answer(taken);
  return updateLine(self);
}

/** Moves the transmit FIFO into a CONSOLE_OUT record, which empties the transmitter. */
export function serialFetch(): u32 {
  const self = device();
  const count: u32 = self.transmitCount;
  if (count == 0) return 0;
  store<u32>(REQUEST + REQUEST_KIND, REQUEST_KIND_CONSOLE_OUT);
  store<u32>(REQUEST + REQUEST_TAG, 0);
  store<u64>(REQUEST + REQUEST_OFFSET, 0);
  store<u64>(REQUEST + REQUEST_LENGTH, count);
  store<u32>(REQUEST + REQUEST_RANGE_COUNT, 0);
  store<u32>(REQUEST + REQUEST_FLAGS, 0);
  memory.copy(REQUEST + REQUEST_RANGES, TRANSMIT_FIFO, count);
  transmitterEmptied(self);
  return EFFECT_REQUEST | updateLine(self);
}

// --- Interrupts (8.5, 8.7) ----------------------------------------------------------------------

// The identified source, by priority. Received data and its time-out count as one here.
function pendingSource(self: Serial): u8 {
  const ier = self.ier;
  if (ier & UART_IER_RLSI && self.overrun) return UART_IIR_RLSI;
  if (ier & UART_IER_RDI && self.receiveCount) return UART_IIR_RDI;
  if (ier & UART_IER_THRI && self.thrEmptyPending) return UART_IIR_THRI;
  if (ier & UART_IER_MSI && self.msrDelta) return UART_IIR_MSI;
  return UART_IIR_NO_INT;
}

// What drives the interrupt line: loop-back mode turns the OUT2 output off (8.6.4).
function lineSource(self: Serial): u8 {
  const connected = (self.mcr & (UART_MCR_OUT2 | UART_MCR_LOOP)) == UART_MCR_OUT2;
  return connected ? pendingSource(self) : UART_IIR_NO_INT;
}

// The line is edge-driven: an edge whenever another source takes it over, so that a guest which
// serves one source per interrupt still hears of the next.
function updateLine(self: Serial): u32 {
  const before = self.source;
  const source = lineSource(self);
  self.source = source;
  return source != UART_IIR_NO_INT && source != before ? EFFECT_IRQ : 0;
}

function readIdentification(self: Serial): u32 {
  const fifo = self.fcr & UART_FCR_ENABLE_FIFO;
  let source = pendingSource(self);
  if (source == UART_IIR_THRI) self.thrEmptyPending = 0; // reading acknowledges it (8.5, table III)
  if (source == UART_IIR_RDI && fifo && self.receiveCount < trigger(self)) {
    source = UART_IIR_RX_TIMEOUT;
  }
  answer(source | (fifo ? UART_IIR_FIFO_ENABLED : 0));
  return updateLine(self);
}

function writeInterruptEnable(self: Serial, value: u8): u32 {
  const ier = value & UART_IER_MASK;
  const raised = ier & ~self.ier;
  self.ier = ier;
  // Enabling the interrupt with an empty transmitter raises it at once (8.5).
  if (raised & UART_IER_THRI && self.transmitCount == 0) self.thrEmptyPending = 1;
  return updateLine(self);
}

// --- Receiver -----------------------------------------------------------------------------------

function capacity(self: Serial): u8 {
  return self.fcr & UART_FCR_ENABLE_FIFO ? FIFO_BYTES : 1;
}

function trigger(self: Serial): u8 {
  switch (<u32>(self.fcr >> 6)) {
    case 0: return 1;
    case 1: return 4;
    case 2: return 8;
    default: return 14;
  }
}

function pushReceived(self: Serial, value: u8): void {
  const tail: usize = (self.receiveHead + self.receiveCount) & (FIFO_BYTES - 1);
  store<u8>(RECEIVE_FIFO + tail, value);
  self.receiveCount++;
}

function readReceiver(self: Serial): u32 {
  if (self.receiveCount == 0) return answer(0);
  answer(load<u8>(RECEIVE_FIFO + self.receiveHead));
  self.receiveHead = (self.receiveHead + 1) & (FIFO_BYTES - 1);
  self.receiveCount--;
  // Said once per emptied FIFO, not per byte: the host then fills it again in one call.
  return updateLine(self) | (self.receiveCount == 0 ? EFFECT_INPUT_SPACE : 0);
}

function readLineStatus(self: Serial): u32 {
  const transmitter: u8 = self.transmitCount == 0 ? UART_LSR_THRE | UART_LSR_TEMT : 0;
  answer(transmitter | (self.receiveCount ? UART_LSR_DR : 0) | (self.overrun ? UART_LSR_OE : 0));
  self.overrun = 0; // reading clears the error bits (8.3)
  return updateLine(self);
}

// --- Transmitter --------------------------------------------------------------------------------

function transmitterEmptied(self: Serial): void {
  self.transmitCount = 0;
  self.thrEmptyPending = 1;
}

function writeTransmitter(self: Serial, value: u8): u32 {
  if (self.mcr & UART_MCR_LOOP) return writeLooped(self, value);
  self.thrEmptyPending = 0; // writing the holding register acknowledges it (8.5, table III)
  const count = self.transmitCount;
  if (count == capacity(self)) {
    return incident(INCIDENT_OVERRUN) | EFFECT_OUTPUT | updateLine(self);
  }
  store<u8>(TRANSMIT_FIFO + count, value);
  self.transmitCount = count + 1;
  return EFFECT_OUTPUT | updateLine(self);
}

// Loop-back: the byte arrives in the receiver at once, and no source reaches the line (8.6.4).
function writeLooped(self: Serial, value: u8): u32 {
  self.thrEmptyPending = 1;
  if (self.receiveCount == capacity(self)) {
    self.overrun = 1;
    return incident(INCIDENT_OVERRUN);
  }
  pushReceived(self, value);
  return 0;
}

function writeFifoControl(self: Serial, value: u8): u32 {
  const changed = (value ^ self.fcr) & UART_FCR_ENABLE_FIFO;
  const enabled = value & UART_FCR_ENABLE_FIFO;
  self.fcr = enabled ? value & UART_FCR_KEPT : 0; // the other bits need bit 0 (8.4)
  let effects: u32 = 0;
  // Changing the mode clears both FIFOs (8.4).
  if (changed || (enabled && value & UART_FCR_CLEAR_RCVR)) {
    self.receiveCount = 0;
    effects |= EFFECT_INPUT_SPACE;
  }
  if (changed || (enabled && value & UART_FCR_CLEAR_XMIT)) {
    if (self.transmitCount) transmitterEmptied(self);
  }
  return effects | updateLine(self);
}

// --- Modem lines --------------------------------------------------------------------------------

// CTS, DSR and DCD are always up; in loop-back mode the outputs show up as inputs (8.6.4).
function modemLines(self: Serial): u8 {
  const mcr = self.mcr;
  if (!(mcr & UART_MCR_LOOP)) return UART_MSR_CTS | UART_MSR_DSR | UART_MSR_DCD;
  // DTR to DSR, RTS to CTS, OUT1 to RI, OUT2 to DCD.
  return (mcr & 0x01) << 5 | (mcr & 0x02) << 3 | (mcr & 0x0c) << 4;
}

function writeModemControl(self: Serial, value: u8): u32 {
  const before = modemLines(self);
  const wasLooped = self.mcr & UART_MCR_LOOP;
  self.mcr = value & UART_MCR_MASK;
  const after = modemLines(self);
  let delta: u8 = (before ^ after) >> 4;
  // The ring indicator's delta bit reports its trailing edge only (8.8).
  if (after & UART_MSR_RI) delta &= ~UART_MSR_TERI;
  self.msrDelta |= delta;
  const opened = wasLooped && !(self.mcr & UART_MCR_LOOP);
  return updateLine(self) | (opened ? EFFECT_INPUT_SPACE : 0);
}
