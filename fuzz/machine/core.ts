// Calls into the instrumented core: each is traced, watched and bounded. No specification; the
// exports are those of assembly/index.ts.
import {
  CALL_CHECK, CALL_COMPLETE, CALL_FAIL, CALL_INPUT, CALL_NEXT, CALL_NOTIFY, CALL_READ, CALL_RESET,
  CALL_WRITE, RULE_EFFECTS, RULE_STATE, RULE_STEPS, TRACE_CALL, TRACE_INBOX, TRACE_RETURN,
} from "./shared";
import { forgetHeads } from "./heads";
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

// assembly/abi.ts
const INBOX: usize = 0x2000;
const OUTBOX_VALUE: usize = 0x3000;
const REQUEST: usize = 0x3010;
const QUEUE_NOTIFY: u32 = 0x50;
const EFFECT_REQUEST: u32 = 1 << 1;
const EFFECT_MORE: u32 = 1 << 2;
const EFFECT_CANCEL: u32 = 1 << 9;
const KIND: usize = 0x8040;
const STEPS_PER_CALL: u32 = 1000000;
// For each head of the queue at hand twice what the longest chain asks for: a walk over 256
// descriptors, and twice over their ranges. Beside it what a reset asks for, over all heads of all
// queues, and as often again.
const STEPS_PER_HEAD: u32 = 2 * 3 * 256;
const STEPS_BESIDE: u32 = 2 * 8 * 256;

// Effects by device kind, assembly/abi.ts: KIND_* in order, from 0.
function effectsOf(kind: u32): u32 {
  const incident: u32 = 1 << 10;
  switch (kind) {
    case 1: return incident | 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4;
    case 2: return incident | 1 << 6;
    case 3: return incident;
    case 4: return incident | 1 << 7;
    case 5: return incident | 1 << 5 | 1 << 6;
    case 6: return incident | 1 << 8;
    case 16:
    case 17: return incident | 1 << 0 | 1 << 1 | 1 << 2 | 1 << 9;
    default: return incident;
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
  if (effects & ~effectsOf(load<u32>(KIND))) violate(RULE_EFFECTS, effects, load<u32>(KIND));
  const steps = STEPS_PER_CALL - stepsLeft();
  const heads = servedSize();
  if (steps > STEPS_BESIDE + heads * STEPS_PER_HEAD) violate(RULE_STEPS, steps, heads);
  endCall((effects & EFFECT_REQUEST) != 0 && load<u32>(KIND) > 15);
  if (effects & EFFECT_CANCEL) forgetHeads(load<u32>(OUTBOX_VALUE));
  if (isTracing()) traceReturn(effects);
  return effects;
}

function traceReturn(effects: u32): void {
  const length: u32 = effects & EFFECT_REQUEST ? recordBytes() : 0;
  traceWords(TRACE_RETURN, effects, load<u32>(OUTBOX_VALUE), accessBytes() - before, length);
  traceBytes(0, 0, REQUEST, length);
}

/** The size of the request record, no more than its place holds. */
export function recordBytes(): u32 {
  const inline = load<u32>(REQUEST) == 7;
  const tail = inline ? load<u32>(REQUEST, 16) : load<u32>(REQUEST, 24) << 4;
  return min<u32>(32 + tail, 32 + 256 * 16);
}

export function callRead(offset: u32, width: u32): u32 {
  expectNothing();
  begin(CALL_READ, offset, width, 0);
  return end(coreRead(offset, width));
}

export function callWrite(offset: u32, width: u32, value: u32): u32 {
  if (offset == QUEUE_NOTIFY && width == 4) expectQueue(value);
  else expectNothing();
  begin(CALL_WRITE, offset, width, value);
  return end(coreWrite(offset, width, value));
}

export function callNotify(queue: u32): u32 {
  expectQueue(queue);
  begin(CALL_NOTIFY, queue, 0, 0);
  return end(coreNotify(queue));
}

export function callNext(queue: u32): u32 {
  expectQueue(queue);
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
  if (isTracing()) {
    traceWords(TRACE_RETURN, answer, load<u32>(OUTBOX_VALUE), accessBytes() - before, 0);
    traceBytes(0, 0, REQUEST, 0);
  }
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
