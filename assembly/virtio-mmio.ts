// The virtio-mmio transport, for every virtio device.
// Virtio 1.2 §4.2, register layout version 2, with §2.1 (status) and §3.1.1 (initialisation). Left
// out: the legacy layout, shared memory regions, VIRTIO_F_RING_RESET.
//
// State: Virtio and one Virtq per queue (virtio.ts, virtq.ts).
import {
  ALL_QUEUES, EFFECT_CANCEL, INCIDENT_FEATURES, INCIDENT_FROZEN, INCIDENT_QUEUE_CONFIG,
  INCIDENT_REGISTER, INCIDENT_STATUS, INCIDENT_WIDTH, QUEUE_COUNT_MAX, VIRTIO_VENDOR_ID,
} from "./abi";
import { forgetQueue, forgetQueues } from "./in-flight";
import { CONFIG_SPACE, QUEUES, QUEUE_STRIDE, VIRTIO } from "./layout";
import { answer, incident, readAbsent, readBadWidth } from "./registers";
import {
  VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
  VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
  VIRTIO_F_VERSION_1, Virtio, setupChanged, virtio,
} from "./virtio";
import {
  deviceConfigSpace, deviceFeatures, deviceFeaturesOk, deviceFeaturesValid, deviceId,
  deviceInterrupts, deviceQueueCount, deviceQueueSizeMax, deviceReset, deviceWriteConfig,
} from "./virtio-device";
import { requestsNotify } from "./virtio-requests";
import { Virtq, virtq, virtqPlausible } from "./virtq";

const VIRTIO_MMIO_MAGIC_VALUE: u32 = 0x000; // MagicValue R
const VIRTIO_MMIO_VERSION: u32 = 0x004; // Version R
const VIRTIO_MMIO_DEVICE_ID: u32 = 0x008; // DeviceID R
const VIRTIO_MMIO_VENDOR_ID: u32 = 0x00c; // VendorID R
const VIRTIO_MMIO_DEVICE_FEATURES: u32 = 0x010; // DeviceFeatures R
const VIRTIO_MMIO_DEVICE_FEATURES_SEL: u32 = 0x014; // DeviceFeaturesSel W
const VIRTIO_MMIO_DRIVER_FEATURES: u32 = 0x020; // DriverFeatures W
const VIRTIO_MMIO_DRIVER_FEATURES_SEL: u32 = 0x024; // DriverFeaturesSel W
const VIRTIO_MMIO_QUEUE_SEL: u32 = 0x030; // QueueSel W
const VIRTIO_MMIO_QUEUE_NUM_MAX: u32 = 0x034; // QueueNumMax R
const VIRTIO_MMIO_QUEUE_NUM: u32 = 0x038; // QueueNum W
const VIRTIO_MMIO_QUEUE_READY: u32 = 0x044; // QueueReady R/W
const VIRTIO_MMIO_QUEUE_NOTIFY: u32 = 0x050; // QueueNotify W
const VIRTIO_MMIO_INTERRUPT_STATUS: u32 = 0x060; // InterruptStatus R
const VIRTIO_MMIO_INTERRUPT_ACK: u32 = 0x064; // InterruptACK W
const VIRTIO_MMIO_STATUS: u32 = 0x070; // Status R/W
const VIRTIO_MMIO_QUEUE_DESC_LOW: u32 = 0x080; // QueueDescLow W
const VIRTIO_MMIO_QUEUE_DESC_HIGH: u32 = 0x084; // QueueDescHigh W
const VIRTIO_MMIO_QUEUE_AVAIL_LOW: u32 = 0x090; // QueueDriverLow W
const VIRTIO_MMIO_QUEUE_AVAIL_HIGH: u32 = 0x094; // QueueDriverHigh W
const VIRTIO_MMIO_QUEUE_USED_LOW: u32 = 0x0a0; // QueueDeviceLow W
const VIRTIO_MMIO_QUEUE_USED_HIGH: u32 = 0x0a4; // QueueDeviceHigh W
const VIRTIO_MMIO_SHM_SEL: u32 = 0x0ac; // SHMSel W
const VIRTIO_MMIO_SHM_LEN_LOW: u32 = 0x0b0; // SHMLenLow R
const VIRTIO_MMIO_SHM_LEN_HIGH: u32 = 0x0b4; // SHMLenHigh R
const VIRTIO_MMIO_SHM_BASE_LOW: u32 = 0x0b8; // SHMBaseLow R
const VIRTIO_MMIO_SHM_BASE_HIGH: u32 = 0x0bc; // SHMBaseHigh R
const VIRTIO_MMIO_CONFIG_GENERATION: u32 = 0x0fc; // ConfigGeneration R
const VIRTIO_MMIO_CONFIG: u32 = 0x100; // Config R/W

const MAGIC: u32 = 0x74726976; // 'virt'
const VERSION: u32 = 2;
const ABSENT: u32 = 0xffffffff; // no shared memory region: its length reads as -1 (§4.2.2)

// The stages of initialisation, each the status before the next (§3.1.1).
const S_INIT: u32 = 0;
const S_ACKNOWLEDGED: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const S_DRIVER: u32 = S_ACKNOWLEDGED | VIRTIO_CONFIG_S_DRIVER;
const S_FEATURES_OK: u32 = S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
const S_RUNNING: u32 = S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;

// --- Reset --------------------------------------------------------------------------------------

/** Power-on state of the transport, the queues and the device; configuration and counters stay. */
export function virtioMmioReset(): u32 {
  forgetQueues(deviceQueueCount()); // as many as its driver agreed on
  memory.fill(VIRTIO, 0, offsetof<Virtio>());
  memory.fill(QUEUES, 0, <usize>QUEUE_COUNT_MAX * QUEUE_STRIDE);
  deviceReset();
  answer(ALL_QUEUES);
  return EFFECT_CANCEL | setupChanged();
}

// --- Reads --------------------------------------------------------------------------------------

export function virtioMmioRead(offset: u32, width: u32): u32 {
  if (offset >= VIRTIO_MMIO_CONFIG) return readConfig(offset - VIRTIO_MMIO_CONFIG, width);
  // Control registers take aligned 32-bit accesses only (§4.2.2.2).
  if (width != 4 || offset & 3) return readBadWidth(width);
  const self = virtio();
  switch (offset >> 2) {
    case VIRTIO_MMIO_MAGIC_VALUE >> 2: return answer(MAGIC);
    case VIRTIO_MMIO_VERSION >> 2: return answer(VERSION);
    case VIRTIO_MMIO_DEVICE_ID >> 2: return answer(deviceId());
    case VIRTIO_MMIO_VENDOR_ID >> 2: return answer(VIRTIO_VENDOR_ID);
    case VIRTIO_MMIO_DEVICE_FEATURES >> 2: return answer(featurePage(self.deviceFeaturesSel));
    case VIRTIO_MMIO_QUEUE_NUM_MAX >> 2:
      return answer(self.queueSel < deviceQueueCount() ? deviceQueueSizeMax() : 0);
    case VIRTIO_MMIO_QUEUE_READY >> 2:
      return answer(self.queueSel < deviceQueueCount() ? virtq(self.queueSel).ready : 0);
    case VIRTIO_MMIO_INTERRUPT_STATUS >> 2:
      return answer(self.interruptStatus | deviceInterrupts());
    case VIRTIO_MMIO_STATUS >> 2: return answer(self.status);
    case VIRTIO_MMIO_SHM_LEN_LOW >> 2:
    case VIRTIO_MMIO_SHM_LEN_HIGH >> 2:
    case VIRTIO_MMIO_SHM_BASE_LOW >> 2:
    case VIRTIO_MMIO_SHM_BASE_HIGH >> 2: return answer(ABSENT);
    case VIRTIO_MMIO_CONFIG_GENERATION >> 2: return answer(self.configGeneration);
    default: return readAbsent(width);
  }
}

function featurePage(selector: u32): u32 {
  if (selector > 1) return 0;
  return <u32>(deviceFeatures() >> (<u64>selector << 5));
}

// Fields are read with their own width; 64-bit ones as two halves (§4.2.2.2).
function readConfig(offset: u32, width: u32): u32 {
  if (width > 4 || popcnt(width) != 1 || offset & (width - 1)) return readBadWidth(width);
  const length = deviceConfigSpace();
  if (offset >= length || width > length - offset) return readAbsent(width);
  const field: usize = CONFIG_SPACE + offset;
  if (width == 1) return answer(load<u8>(field));
  return answer(width == 2 ? load<u16>(field) : load<u32>(field));
}

// --- Writes -------------------------------------------------------------------------------------

export function virtioMmioWrite(offset: u32, width: u32, value: u32): u32 {
  if (offset >= VIRTIO_MMIO_CONFIG) {
    return writeConfig(offset - VIRTIO_MMIO_CONFIG, width, value);
  }
  if (width != 4 || offset & 3) return incident(INCIDENT_WIDTH);
  const self = virtio();
  switch (offset >> 2) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL >> 2:
      self.deviceFeaturesSel = value;
      return 0;
    case VIRTIO_MMIO_DRIVER_FEATURES >> 2: return writeDriverFeatures(self, value);
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL >> 2:
      self.driverFeaturesSel = value;
      return 0;
    case VIRTIO_MMIO_QUEUE_SEL >> 2:
      self.queueSel = value;
      return 0;
    case VIRTIO_MMIO_QUEUE_NOTIFY >> 2: return requestsNotify(value);
    case VIRTIO_MMIO_INTERRUPT_ACK >> 2:
      self.interruptStatus &= ~value;
      return 0;
    case VIRTIO_MMIO_STATUS >> 2: return writeStatus(self, value);
    case VIRTIO_MMIO_QUEUE_READY >> 2: return writeQueueReady(self, value);
    case VIRTIO_MMIO_SHM_SEL >> 2: return 0; // no region exists, whichever is selected
    case VIRTIO_MMIO_QUEUE_NUM >> 2:
    case VIRTIO_MMIO_QUEUE_DESC_LOW >> 2:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH >> 2:
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW >> 2:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH >> 2:
    case VIRTIO_MMIO_QUEUE_USED_LOW >> 2:
    case VIRTIO_MMIO_QUEUE_USED_HIGH >> 2: return writeQueue(self, offset, value);
    default: return incident(INCIDENT_REGISTER);
  }
}

function writeConfig(offset: u32, width: u32, value: u32): u32 {
  if (width > 4 || popcnt(width) != 1 || offset & (width - 1)) return incident(INCIDENT_WIDTH);
  // No field is written before the features are agreed on (§3.1.1, step 4).
  if (!(virtio().status & VIRTIO_CONFIG_S_FEATURES_OK)) return incident(INCIDENT_REGISTER);
  return deviceWriteConfig(offset, width, value) ? 0 : incident(INCIDENT_REGISTER);
}

// Features are open from DRIVER to FEATURES_OK (§3.1.1, steps 4 and 5).
function writeDriverFeatures(self: Virtio, value: u32): u32 {
  if (self.status != S_DRIVER) return incident(INCIDENT_STATUS);
  switch (self.driverFeaturesSel) {
    case 0:
      self.driverFeatures = self.driverFeatures & 0xffffffff00000000 | <u64>value;
      return 0;
    case 1:
      self.driverFeatures = self.driverFeatures & 0xffffffff | <u64>value << 32;
      return 0;
    default: // nothing is offered there: remembered until the driver asks for FEATURES_OK
      if (value != 0) self.featuresBeyond = 1;
      return 0;
  }
}

// --- Device status (§2.1, §3.1.1) ---------------------------------------------------------------

// The legal steps, as a table from each status to the only one that may follow it.
function nextStatus(status: u32): u32 {
  switch (status) {
    case S_INIT: return S_ACKNOWLEDGED;
    case S_ACKNOWLEDGED: return S_DRIVER;
    case S_DRIVER: return S_FEATURES_OK;
    case S_FEATURES_OK: return S_RUNNING;
    default: return status; // running, or failed: only a reset leads on
  }
}

function writeStatus(self: Virtio, value: u32): u32 {
  if (value == 0) return virtioMmioReset();
  // DEVICE_NEEDS_RESET is the device's own bit: a driver writes back what it has read.
  const to = value & ~VIRTIO_CONFIG_S_NEEDS_RESET;
  const needsReset = self.status & VIRTIO_CONFIG_S_NEEDS_RESET;
  const from = self.status & ~VIRTIO_CONFIG_S_NEEDS_RESET;
  if (to == from) return 0;
  if (to == (from | VIRTIO_CONFIG_S_FAILED)) {
    self.status = to | needsReset;
    return setupChanged(); // its queues stopped, if they were live
  }
  if (needsReset || to != nextStatus(from)) return incident(INCIDENT_STATUS);
  if (to == S_FEATURES_OK) {
    // Refused by not setting the bit, which the driver reads back (§3.1.1, step 6).
    if (!featuresAcceptable(self)) return incident(INCIDENT_FEATURES);
    self.status = to;
    deviceFeaturesOk();
    return 0;
  }
  self.status = to;
  return to == S_RUNNING ? setupChanged() : 0;
}

// Only what was offered, with all that it requires, and never without VERSION_1 (§2.2, §6.1).
function featuresAcceptable(self: Virtio): bool {
  const accepted = self.driverFeatures;
  return self.featuresBeyond == 0 && (accepted & ~deviceFeatures()) == 0 &&
    (accepted & VIRTIO_F_VERSION_1) != 0 && deviceFeaturesValid(accepted);
}

// --- Queues -------------------------------------------------------------------------------------

// Queues are set up between FEATURES_OK and DRIVER_OK, and a ready one does not change (§4.2.2.2).
function writeQueue(self: Virtio, offset: u32, value: u32): u32 {
  if (self.queueSel >= deviceQueueCount()) return incident(INCIDENT_QUEUE_CONFIG);
  const queue = virtq(self.queueSel);
  if (self.status != S_FEATURES_OK || queue.ready) return incident(INCIDENT_FROZEN);
  switch (offset >> 2) {
    case VIRTIO_MMIO_QUEUE_NUM >> 2:
      if (value > deviceQueueSizeMax()) return incident(INCIDENT_QUEUE_CONFIG);
      queue.size = <u16>value;
      break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW >> 2:
      queue.descTable = withLow(queue.descTable, value);
      break;
    case VIRTIO_MMIO_QUEUE_DESC_HIGH >> 2:
      queue.descTable = withHigh(queue.descTable, value);
      break;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW >> 2:
      queue.availRing = withLow(queue.availRing, value);
      break;
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH >> 2:
      queue.availRing = withHigh(queue.availRing, value);
      break;
    case VIRTIO_MMIO_QUEUE_USED_LOW >> 2:
      queue.usedRing = withLow(queue.usedRing, value);
      break;
    default: queue.usedRing = withHigh(queue.usedRing, value);
  }
  return 0;
}

function withLow(address: u64, low: u32): u64 {
  return address & 0xffffffff00000000 | <u64>low;
}

function withHigh(address: u64, high: u32): u64 {
  return address & 0xffffffff | <u64>high << 32;
}

function writeQueueReady(self: Virtio, value: u32): u32 {
  const index = self.queueSel;
  if (value > 1) return incident(INCIDENT_QUEUE_CONFIG);
  if (index >= deviceQueueCount()) return value ? incident(INCIDENT_QUEUE_CONFIG) : 0;
  const queue = virtq(index);
  if (value == queue.ready) return 0;
  if (!value) return stopQueue(queue, index);
  if (self.status != S_FEATURES_OK) return incident(INCIDENT_FROZEN);
  if (!virtqPlausible(queue, deviceQueueSizeMax())) return incident(INCIDENT_QUEUE_CONFIG);
  queue.availNext = 0;
  queue.usedNext = 0;
  queue.ready = 1;
  return 0;
}

// From here on the device does not touch the queue (§4.2.2.1): requests in flight are forgotten.
function stopQueue(queue: Virtq, index: u32): u32 {
  queue.ready = 0;
  queue.held = 0;
  forgetQueue(index);
  answer(index);
  return EFFECT_CANCEL | setupChanged();
}

// --- Restore ------------------------------------------------------------------------------------

/** Whether transport and queues are in a state that register writes can lead to. */
export function virtioMmioValid(): bool {
  const self = virtio();
  const stopped = VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED;
  const stage = self.status & ~stopped;
  const known = stage == S_INIT || stage == S_ACKNOWLEDGED || stage == S_DRIVER ||
    stage == S_FEATURES_OK || stage == S_RUNNING;
  if (!known || self.interruptStatus > 3 || self.featuresBeyond > 1 || self.writeback > 1) {
    return false;
  }
  return stage < VIRTIO_CONFIG_S_FEATURES_OK || featuresAcceptable(self);
}

/** The same for the registers of one queue. */
export function virtioMmioQueueValid(index: u32): bool {
  const queue = virtq(index);
  const sizeMax = deviceQueueSizeMax();
  if (queue.ready == 0) return queue.size <= sizeMax;
  const featuresOk = (virtio().status & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
  return queue.ready == 1 && featuresOk && virtqPlausible(queue, sizeMax);
}
