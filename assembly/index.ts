// The cage's exports, the same for every device; nothing else is here. docs/abi.md explains each.
import {
  BLK_CONFIG_BYTES, INBOX, INBOX_BYTES, INCIDENT_REGISTER, INCIDENT_TAG, INVALID_CONFIG,
  INVALID_KIND, KIND_ACPI_PM, KIND_BOOT_TIMER, KIND_I8042, KIND_PVPANIC, KIND_RTC, KIND_SERIAL,
  KIND_VIRTIO_BLK, KIND_VIRTIO_NET, KIND_VIRTIO_RNG, NET_CONFIG_BYTES, RNG_CONFIG_BYTES, STATE,
  STATE_BYTES, VALID,
} from "./abi";
import { acpiPmRead, acpiPmWrite } from "./acpi-pm";
import { bootTimerRead, bootTimerWrite } from "./boot-timer";
import { checkState } from "./check";
import { i8042Read, i8042Reset, i8042Write } from "./i8042";
import { CONFIG, DEVICE_KIND } from "./layout";
import { pvpanicRead, pvpanicWrite } from "./pvpanic";
import { answer, incident, readAbsent } from "./registers";
import { rtcInput, rtcRead, rtcReset, rtcWrite } from "./rtc";
import { serialFetch, serialInput, serialRead, serialReset, serialWrite } from "./serial";
import { virtioNeedsReset } from "./virtio";
import { deviceConfigValid } from "./virtio-device";
import { netInput } from "./virtio-net";
import { virtioMmioRead, virtioMmioReset, virtioMmioWrite } from "./virtio-mmio";
import { requestsComplete, requestsNext, requestsNotify } from "./virtio-requests";

// @ts-ignore: decorator
@inline function kindOf(): u32 {
  return load<u32>(DEVICE_KIND);
}

// @ts-ignore: decorator
@inline function isVirtio(kind: u32): bool {
  return kind >= <u32>KIND_VIRTIO_BLK && kind <= <u32>KIND_VIRTIO_NET;
}

function configBytes(kind: u32): u32 {
  if (kind == KIND_VIRTIO_BLK) return BLK_CONFIG_BYTES;
  return kind == KIND_VIRTIO_NET ? NET_CONFIG_BYTES : RNG_CONFIG_BYTES;
}

/** Makes the instance a device of `kind`, configured from the inbox. VALID or INVALID_*. */
export function init(kind: u32): u32 {
  memory.fill(STATE, 0, STATE_BYTES);
  if (!isVirtio(kind)) {
    if (kind < <u32>KIND_SERIAL || kind > <u32>KIND_PVPANIC) return INVALID_KIND;
    store<u32>(DEVICE_KIND, kind);
    reset();
    return VALID;
  }
  store<u32>(DEVICE_KIND, kind);
  memory.copy(CONFIG, INBOX, configBytes(kind));
  if (!deviceConfigValid()) {
    store<u32>(DEVICE_KIND, 0); // stays a device of no kind: reads all ones, takes nothing
    return INVALID_CONFIG;
  }
  reset();
  return VALID;
}

/** Reads a register; the value is at OUTBOX_VALUE. */
export function read(offset: u32, width: u32): u32 {
  switch (kindOf()) {
    case KIND_VIRTIO_BLK:
    case KIND_VIRTIO_NET:
    case KIND_VIRTIO_RNG: return virtioMmioRead(offset, width);
    case KIND_SERIAL: return serialRead(offset, width);
    case KIND_I8042: return i8042Read(offset, width);
    case KIND_RTC: return rtcRead(offset, width);
    case KIND_BOOT_TIMER: return bootTimerRead(width);
    case KIND_ACPI_PM: return acpiPmRead(offset, width);
    case KIND_PVPANIC: return pvpanicRead(offset, width);
    default: return readAbsent(width);
  }
}

/** Writes a register. */
export function write(offset: u32, width: u32, value: u32): u32 {
  switch (kindOf()) {
    case KIND_VIRTIO_BLK:
    case KIND_VIRTIO_NET:
    case KIND_VIRTIO_RNG: return virtioMmioWrite(offset, width, value);
    case KIND_SERIAL: return serialWrite(offset, width, value);
    case KIND_I8042: return i8042Write(offset, width, value);
    case KIND_RTC: return rtcWrite(offset, width, value);
    case KIND_BOOT_TIMER: return bootTimerWrite(offset, width, value);
    case KIND_ACPI_PM: return acpiPmWrite(offset, width, value);
    case KIND_PVPANIC: return pvpanicWrite(offset, width, value);
    default: return incident(INCIDENT_REGISTER);
  }
}

/** A queue's doorbell, as a write to QueueNotify rings it. */
export function notify(queue: u32): u32 {
  return isVirtio(kindOf()) ? requestsNotify(queue) : 0;
}

/** The next request of a queue, or the UART's output. */
export function next(queue: u32): u32 {
  const kind = kindOf();
  if (isVirtio(kind)) return requestsNext(queue);
  return kind == KIND_SERIAL ? serialFetch() : 0;
}

/** The host is done with request `tag`: RESULT_*, and how many payload bytes it wrote. */
export function complete(tag: u32, result: u32, bytes: u32): u32 {
  return isVirtio(kindOf()) ? requestsComplete(tag, result, bytes) : incident(INCIDENT_TAG);
}

/** Hands the device `length` bytes from the inbox; OUTBOX_VALUE says how many it took. */
export function input(length: u32): u32 {
  const bytes = min<u32>(length, INBOX_BYTES);
  switch (kindOf()) {
    case KIND_SERIAL: return serialInput(bytes);
    case KIND_RTC: return rtcInput(bytes);
    case KIND_VIRTIO_NET: return netInput(bytes);
    default: return answer(0);
  }
}

/** Hardware reset: power-on state, configuration and counters kept. */
export function reset(): u32 {
  switch (kindOf()) {
    case KIND_VIRTIO_BLK:
    case KIND_VIRTIO_NET:
    case KIND_VIRTIO_RNG: return virtioMmioReset();
    case KIND_SERIAL:
      serialReset();
      return 0;
    case KIND_I8042:
      i8042Reset();
      return 0;
    case KIND_RTC:
      rtcReset();
      return 0;
    default: return 0;
  }
}

/** Re-validates the whole state region. VALID or INVALID_*. */
export function check(): u32 {
  return checkState();
}

/** Sets DEVICE_NEEDS_RESET on a virtio device whose instance was restarted. */
export function fail(): u32 {
  // The restarted device forgot how far its driver was, so the driver is told in any case (§2.1.2).
  return isVirtio(kindOf()) ? virtioNeedsReset() : 0;
}
