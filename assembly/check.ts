// Validation of a whole state region, before a restored device runs for the first time.
// No specification: the rules are what the other files keep true about their own state.
import {
  BLK_CONFIG_BYTES, CAGE_MEMORY_BYTES, INVALID_CONFIG, INVALID_KIND, INVALID_STATE, KIND_ACPI_PM,
  KIND_BOOT_TIMER, KIND_I8042, KIND_PVPANIC, KIND_RTC, KIND_SERIAL, KIND_VIRTIO_BLK,
  KIND_VIRTIO_NET, KIND_VIRTIO_RNG, NET_CONFIG_BYTES,
  QUEUE_COUNT_MAX, QUEUE_SIZE_MAX, RNG_CONFIG_BYTES, TAG_GENERATION_MASK, VALID,
} from "./abi";
import { I8042_BYTES, i8042Valid } from "./i8042";
import { inFlight } from "./in-flight";
import {
  CONFIG, DEVICE_KIND, IN_FLIGHT, IN_FLIGHT_QUEUE_BYTES, NET, PORT_DEVICE, QUEUES, STATE_END,
  VIRTIO,
} from "./layout";
import { RTC_BYTES, rtcValid } from "./rtc";
import { SERIAL_BYTES, serialValid } from "./serial";
import { Virtio, virtioRunning } from "./virtio";
import {
  deviceConfigValid, deviceHeldValid, deviceQueueCount, deviceQueueCountMax, deviceRequestKind,
  deviceStateBytes, deviceStateValid,
} from "./virtio-device";
import { virtioMmioQueueValid, virtioMmioValid } from "./virtio-mmio";
import { virtq } from "./virtq";

/** VALID, or the first INVALID_* found. */
export function checkState(): u32 {
  if (!zero(DEVICE_KIND + 4, CONFIG) || !zero(STATE_END, CAGE_MEMORY_BYTES)) return INVALID_STATE;
  switch (load<u32>(DEVICE_KIND)) {
    case KIND_VIRTIO_BLK: return virtioDevice(BLK_CONFIG_BYTES);
    case KIND_VIRTIO_RNG: return virtioDevice(RNG_CONFIG_BYTES);
    case KIND_VIRTIO_NET: return virtioDevice(NET_CONFIG_BYTES);
    case KIND_SERIAL: return portDevice(serialValid(), SERIAL_BYTES);
    case KIND_I8042: return portDevice(i8042Valid(), I8042_BYTES);
    case KIND_RTC: return portDevice(rtcValid(), RTC_BYTES);
    case KIND_BOOT_TIMER:
    case KIND_ACPI_PM:
    case KIND_PVPANIC: return portDevice(true, 0);
    default: return INVALID_KIND;
  }
}

function virtioDevice(configBytes: usize): u32 {
  const rest = zero(CONFIG + ((configBytes + 3) & ~3), VIRTIO) &&
    zero(VIRTIO + offsetof<Virtio>(), NET) && zero(NET + deviceStateBytes(), QUEUES);
  if (!rest) return INVALID_STATE;
  if (!deviceConfigValid()) return INVALID_CONFIG;
  return deviceStateValid() && virtioMmioValid() && queuesValid() ? VALID : INVALID_STATE;
}

function portDevice(valid: bool, stateBytes: usize): u32 {
  const rest = zero(CONFIG, PORT_DEVICE) && zero(PORT_DEVICE + stateBytes, STATE_END);
  return valid && rest ? VALID : INVALID_STATE;
}

function queuesValid(): bool {
  const queueCount = deviceQueueCount();
  for (let index: u32 = 0; index < queueCount; index++) {
    if (!virtioMmioQueueValid(index) || !headsValid(index)) return false;
  }
  for (let index = queueCount; index < <u32>QUEUE_COUNT_MAX; index++) {
    if (virtq(index).ready != 0 || virtq(index).size != 0) return false;
  }
  // Of queues that an earlier driver agreed on the generations stay; what no driver of this device
  // can have must be empty.
  const most = deviceQueueCountMax();
  for (let index = queueCount; index < most; index++) {
    if (!headsValid(index)) return false;
  }
  return zero(IN_FLIGHT + <usize>most * IN_FLIGHT_QUEUE_BYTES, STATE_END);
}

function headsValid(queueIndex: u32): bool {
  const queue = virtq(queueIndex);
  let count: u32 = 0;
  for (let head: u32 = 0; head < <u32>QUEUE_SIZE_MAX; head++) {
    const entry = inFlight(queueIndex, head);
    if (<i32>entry.generation > TAG_GENERATION_MASK) return false;
    if (entry.kind == 0) continue;
    if (queue.ready == 0 || head >= queue.size) return false;
    if (!deviceRequestKind(queueIndex, entry.kind)) return false;
    count++;
  }
  // Every head taken from a live ring was given back, or is in flight.
  const taken: u32 = (<u32>queue.availNext - queue.usedNext) & 0xffff;
  const given = !virtioRunning() || queue.ready == 0 || taken == count;
  return given && deviceHeldValid(queueIndex, count);
}

// The regions start and end at multiples of 4.
function zero(from: usize, to: usize): bool {
  for (let at = from; at < to; at += 4) {
    if (load<u32>(at) != 0) return false;
  }
  return true;
}

if (VIRTIO % 4 != 0 || STATE_END % 4 != 0) ERROR("zero() reads whole words");
