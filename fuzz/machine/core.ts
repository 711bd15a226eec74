// Calls into the instrumented core: each is traced, watched and bounded. No specification; the
// exports are those of assembly/index.ts.
import {
  EFFECT_CANCEL, EFFECT_INCIDENT, EFFECT_INPUT_SPACE, EFFECT_IRQ, EFFECT_MARKER, EFFECT_MORE,
  EFFECT_OUTPUT, EFFECT_PANIC, EFFECT_POWER_OFF, EFFECT_REBOOT, EFFECT_REQUEST, EFFECT_SETUP, INBOX,
  KIND_ACPI_PM, KIND_BOOT_TIMER, KIND_I8042, KIND_PVPANIC, KIND_SERIAL, KIND_VIRTIO_BLK,
  KIND_VIRTIO_NET, KIND_VIRTIO_RNG, OUTBOX_VALUE, QUEUE_COUNT_MAX, RANGE_STRIDE, REQUEST,
  REQUEST_BYTES_MAX, REQUEST_KIND,
  REQUEST_KIND_CONSOLE_OUT, REQUEST_LENGTH, REQUEST_RANGES, REQUEST_RANGE_COUNT, STATE_KIND,
  STEPS_PER_CALL,
} from "../../assembly/abi";
import {
  CALL_CHECK, CALL_COMPLETE, CALL_FAIL, CALL_INPUT, CALL_NEXT, CALL_NOTIFY, CALL_READ, CALL_RESET,
  CALL_WRITE, RULE_EFFECTS, RULE_STATE, RULE_STEPS, TRACE_CALL, TRACE_INBOX, TRACE_RETURN,
} from "./shared";
import { forgetHeads } from "./heads";
import { forgetHeld } from "./held";
import { markDirty } from "./memory";
import { accessBytes, isTracing, traceBytes, traceWords } from "./trace";
import { violate } from "./violation";
import { endCall, expectCompletion, expectNothing, expectQueue, servedSize } from "./walker";

@external("core", "read") declare function coreRead(offset: u32, width: u32): u32;
@external("core", "write") declare function coreWrite(offset: u32, width: u32, value: u32): u32;
@external("core", "notify") declare function coreNotify(queue: u32): u32;
@external("core", "next") declare function coreNext(queue: u32): u32;
@external("core", "complete")
declare function coreComplete(tag: u32, result: u32, bytes: u32): u32;
@external("core", "input") declare function coreInput(length: u32): u32;
@external("core", "reset") declare function coreReset(): u32;
@external("core", "check") declare function coreCheck(): u32;
@external("core", "fail") declare function coreFail(): u32;
@external("core", "stepsLeft") declare function stepsLeft(): u32;

const QUEUE_NOTIFY: u32 = 0x50; // assembly/virtio-mmio.ts
// For each head of the queue at hand twice what the longest chain asks for: a walk over 256
// descriptors, and twice over their ranges. Beside it what a reset asks for, over all heads of all
// queues, and as often again.
const STEPS_PER_HEAD: u32 = 2 * 3 * 256;
const STEPS_BESIDE: u32 = 2 * QUEUE_COUNT_MAX * 256;

const VIRTIO_EFFECTS: u32 = EFFECT_IRQ | EFFECT_REQUEST | EFFECT_MORE | EFFECT_CANCEL;

// The effects that each kind of device can have, beside an incident.
function effectsOf(kind: u32): u32 {
  switch (kind) {
    case KIND_SERIAL: return EFFECT_IRQ | EFFECT_REQUEST | EFFECT_OUTPUT | EFFECT_INPUT_SPACE;
    case KIND_I8042: return EFFECT_REBOOT;
    case KIND_BOOT_TIMER: return EFFECT_MARKER;
    case KIND_ACPI_PM: return EFFECT_POWER_OFF | EFFECT_REBOOT;
    case KIND_PVPANIC: return EFFECT_PANIC;
    case KIND_VIRTIO_BLK:
    case KIND_VIRTIO_RNG: return VIRTIO_EFFECTS;
    case KIND_VIRTIO_NET: return VIRTIO_EFFECTS | EFFECT_SETUP;
    default: return 0;
  }
}

// @ts-ignore: decorator
@inline function begin(call: u32, a: u32, b: u32, c: u32): void {
  if (isTracing()) {
    before = accessBytes();
    traceWords(TRACE_CALL, call, a, b, c);
  }
}

let before: u32 = 0;

function end(effects: u32): u32 {
  const kind = load<u32>(STATE_KIND);
  if (effects & ~(effectsOf(kind) | EFFECT_INCIDENT)) violate(RULE_EFFECTS, effects, kind);
  const steps: u32 = STEPS_PER_CALL - stepsLeft();
  const heads = servedSize();
  if (steps > STEPS_BESIDE + heads * STEPS_PER_HEAD) violate(RULE_STEPS, steps, heads);
  endCall((effects & EFFECT_REQUEST) != 0 && kind >= <u32>KIND_VIRTIO_BLK);
  if (effects & EFFECT_CANCEL) cancel(load<u32>(OUTBOX_VALUE));
  if (isTracing()) traceReturn(effects, effects & EFFECT_REQUEST ? recordBytes() : 0);
  return effects;
}

function cancel(queue: u32): void {
  forgetHeads(queue);
  forgetHeld(queue);
}

function traceReturn(effects: u32, length: u32): void {
  traceWords(TRACE_RETURN, effects, load<u32>(OUTBOX_VALUE), accessBytes() - before, length);
  traceBytes(0, 0, REQUEST, length);
}

/** The size of the request record, no more than its place holds. */
function recordBytes(): u32 {
  const inline = load<u32>(REQUEST, REQUEST_KIND) == REQUEST_KIND_CONSOLE_OUT;
  const tail = inline ? load<u32>(REQUEST, REQUEST_LENGTH)
    : load<u32>(REQUEST, REQUEST_RANGE_COUNT) * RANGE_STRIDE;
  return min<u32>(REQUEST_RANGES + tail, REQUEST_BYTES_MAX);
}

export function callRead(offset: u32, width: u32): u32 {
  expectNothing();
  begin(CALL_READ, offset, width, 0);
  return end(coreRead(offset, width));
}

export function callWrite(offset: u32, width: u32, value: u32): u32 {
  if (offset == QUEUE_NOTIFY && width == 4) expectQueue(value, true);
  else expectNothing();
  begin(CALL_WRITE, offset, width, value);
  return end(coreWrite(offset, width, value));
}

export function callNotify(queue: u32): u32 {
  expectQueue(queue, true);
  begin(CALL_NOTIFY, queue, 0, 0);
  return end(coreNotify(queue));
}

export function callNext(queue: u32): u32 {
  expectQueue(queue, false);
  begin(CALL_NEXT, queue, 0, 0);
  return end(coreNext(queue));
}

export function callComplete(tag: u32, result: u32, bytes: u32): u32 {
  expectCompletion(tag, result, bytes);
  begin(CALL_COMPLETE, tag, result, bytes);
  return end(coreComplete(tag, result, bytes));
}

/** Hands over `length` bytes that stand in the inbox. */
export function callInput(length: u32): u32 {
  expectNothing();
  markDirty(INBOX, length);
  traceBytes(TRACE_INBOX, 0, INBOX, length);
  begin(CALL_INPUT, length, 0, 0);
  return end(coreInput(length));
}

export function callReset(): u32 {
  expectNothing();
  begin(CALL_RESET, 0, 0, 0);
  return end(coreReset());
}

export function callFail(): u32 {
  expectNothing();
  begin(CALL_FAIL, 0, 0, 0);
  return end(coreFail());
}

/** Whether the core would load its present state again. */
export function callCheck(): bool {
  expectNothing();
  begin(CALL_CHECK, 0, 0, 0);
  const answer = coreCheck();
  if (isTracing()) traceReturn(answer, 0);
  return answer == 0;
}

/** An oracle: a state that the core got into by itself must be one that it loads. */
export function demandValidState(): void {
  expectNothing();
  const answer = coreCheck();
  if (answer != 0) violate(RULE_STATE, answer, 0);
}

export function wantsMore(effects: u32): bool {
  return (effects & (EFFECT_MORE | EFFECT_REQUEST)) != 0;
}
