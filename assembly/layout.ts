// Where everything sits in a cage's memory. The state region is what a snapshot holds, byte for
// byte; the scratch region is written before it is read within one call and never saved.
//
// State (from STATE):
//   +0x0000 counters, 16 x u32          +0x0040 device kind, u32
//   +0x0080 configuration (68 bytes)    +0x0100 transport of a virtio device (Virtio)
//   +0x0180 a network device (VirtioNet)
//   +0x0200 registers of a port device  +0x0400 queue slots, 64 bytes each (Virtq)
//   +0x1000 heads in flight, 16 bytes each, 0x1000 bytes per queue (InFlight)
//   +0x12000 end; the rest of the region is zero
// Scratch (between outbox and state):
//   0x5000 what the last walk found (Chain)   0x5040 its segments, 16 bytes each
//   0x6040 one descriptor    0x6060 request header    0x6080 used element    0x6100 config space
import {
  CAGE_MEMORY_BYTES, COUNTERS, COUNTER_COUNT, INBOX, INBOX_BYTES, NET_STATE, OUTBOX, OUTBOX_BYTES,
  QUEUE_COUNT_MAX, QUEUE_SIZE_MAX, REQUEST, REQUEST_BYTES_MAX, STATE, STATE_BYTES, STATE_KIND,
} from "./abi";

export const DEVICE_KIND: usize = STATE_KIND;
export const CONFIG: usize = STATE + 0x80;
export const CONFIG_BYTES_MAX: usize = 0x80;
export const VIRTIO: usize = STATE + 0x100;
export const NET: usize = NET_STATE;
export const PORT_DEVICE: usize = STATE + 0x200;
export const PORT_DEVICE_BYTES: usize = 0x200;
export const QUEUES: usize = STATE + 0x400;
export const QUEUE_STRIDE: usize = 64;
export const IN_FLIGHT: usize = STATE + 0x1000;
export const IN_FLIGHT_STRIDE: usize = 16;
export const IN_FLIGHT_QUEUE_BYTES: usize = 0x1000;
export const STATE_END: usize = STATE + 0x12000;

export const CHAIN: usize = 0x5000;
export const SEGMENTS: usize = 0x5040;
export const SEGMENT_STRIDE: usize = 16;
export const DESCRIPTOR: usize = 0x6040;
export const HEADER: usize = 0x6060;
export const USED_ELEMENT: usize = 0x6080;
export const CONFIG_SPACE: usize = 0x6100;
export const CONFIG_SPACE_BYTES: usize = 0x80;

// The regions follow each other without overlap: moving one is a compile error, not a bad snapshot.
const QUEUE_BYTES: usize = <usize>QUEUE_COUNT_MAX * QUEUE_STRIDE;
const QUEUE_HEADS_BYTES: usize = <usize>QUEUE_SIZE_MAX * IN_FLIGHT_STRIDE;
const HEADS_BYTES: usize = <usize>QUEUE_COUNT_MAX * IN_FLIGHT_QUEUE_BYTES;
const SEGMENTS_BYTES: usize = <usize>QUEUE_SIZE_MAX * SEGMENT_STRIDE;
if (INBOX + INBOX_BYTES > OUTBOX) ERROR("inbox runs into the outbox");
if (REQUEST + REQUEST_BYTES_MAX > OUTBOX + OUTBOX_BYTES) ERROR("a record leaves the outbox");
if (<usize>(OUTBOX + OUTBOX_BYTES) > CHAIN) ERROR("outbox runs into the scratch region");
if (SEGMENTS + SEGMENTS_BYTES > DESCRIPTOR) ERROR("segments run over");
if (CONFIG_SPACE + CONFIG_SPACE_BYTES > <usize>STATE) ERROR("scratch region runs into the state");
if (COUNTERS != STATE) ERROR("the state region starts with the counters");
if (<usize>(COUNTERS + COUNTER_COUNT * 4) > DEVICE_KIND) ERROR("counters run over");
if (CONFIG + CONFIG_BYTES_MAX > VIRTIO) ERROR("configuration runs into the transport");
if (PORT_DEVICE + PORT_DEVICE_BYTES > QUEUES) ERROR("port device runs into the queues");
if (QUEUES + QUEUE_BYTES > IN_FLIGHT) ERROR("queues run into the heads");
if (QUEUE_HEADS_BYTES > IN_FLIGHT_QUEUE_BYTES) ERROR("heads of a queue run over");
if (IN_FLIGHT + HEADS_BYTES > STATE_END) ERROR("heads run over");
if (STATE_END > <usize>(STATE + STATE_BYTES)) ERROR("state region is too small");
if (STATE + STATE_BYTES != CAGE_MEMORY_BYTES) ERROR("state region must end the memory");
