// The numbers that both sides of the cage wall share: asc and tsc read this same file, so its
// constants carry no type annotation. docs/abi.md explains each; test/abi.test.ts pins them.

// Version of everything below; a snapshot or a recording made under another one is refused.
export const ABI_VERSION = 2;

// --- Device kinds: the argument of init() -------------------------------------------------------

export const KIND_SERIAL = 1; // 16550A UART
export const KIND_I8042 = 2; // PC keyboard controller: probe and reset only
export const KIND_RTC = 3; // MC146818 clock and CMOS memory
export const KIND_BOOT_TIMER = 4; // one byte that marks 'user space reached'
export const KIND_ACPI_PM = 5; // sleep control, sleep status and reset registers
export const KIND_PVPANIC = 6; // the guest tells of its own panic
export const KIND_VIRTIO_BLK = 16;
export const KIND_VIRTIO_RNG = 17;
export const KIND_VIRTIO_NET = 18;

// --- Effects: every export answers with these bits ----------------------------------------------

export const EFFECT_IRQ = 1 << 0; // raise one edge on the device's interrupt line
export const EFFECT_REQUEST = 1 << 1; // a request record stands in the outbox: copy, check, execute
export const EFFECT_MORE = 1 << 2; // call next() again: work may remain behind this call's bound
export const EFFECT_OUTPUT = 1 << 3; // console bytes wait in the UART: fetch them with next(0)
export const EFFECT_INPUT_SPACE = 1 << 4; // the device can take input bytes again
export const EFFECT_POWER_OFF = 1 << 5; // the guest asked to be powered off (ACPI S5)
export const EFFECT_REBOOT = 1 << 6; // the guest asked to be reset
export const EFFECT_MARKER = 1 << 7; // boot timer: the marker byte is in OUTBOX_VALUE
export const EFFECT_PANIC = 1 << 8; // pvpanic: the event bits are in OUTBOX_VALUE
// The driver reset the device or stopped a queue: forget the requests in flight of the queue whose
// index is in OUTBOX_VALUE, or of all queues when that is ALL_QUEUES.
export const EFFECT_CANCEL = 1 << 9;
export const EFFECT_INCIDENT = 1 << 10; // at least one counter at COUNTERS went up
// virtio-net: its queues started or stopped, or the driver changed what is at NET_STATE.
export const EFFECT_SETUP = 1 << 11;

export const ALL_QUEUES = 0xffff;

// --- The cage's memory: fixed places, two Wasm pages in all -------------------------------------

export const CAGE_MEMORY_BYTES = 0x20000;

// Inbox: the host writes, then calls. Device configuration for init(), bytes for input().
export const INBOX = 0x2000;
export const INBOX_BYTES = 0x1000;

// Outbox: the core writes, the host copies out and checks. See 'request record' below.
export const OUTBOX = 0x3000;
export const OUTBOX_BYTES = 0x2000;

// State: everything a snapshot of the device holds, counters included.
export const STATE = 0x8000;
export const STATE_BYTES = 0x18000;

// Incident counters, u32 each, at the start of the state region.
export const COUNTERS = 0x8000;
export const COUNTER_COUNT = 16;

// The kind the device was initialised with, u32.
export const STATE_KIND = 0x8040;

// Of a virtio device: the features that its driver accepted, u64, and its device status, u32.
export const STATE_DRIVER_FEATURES = 0x8100;
export const STATE_STATUS = 0x8114;

// What a virtio-net device and its driver agreed on, for the host to carry out; with EFFECT_SETUP.
export const NET_STATE = 0x8180;
export const NET_STATE_OFFLOADS = 0; // u64, VIRTIO_NET_F_GUEST_*: what received frames may need
export const NET_STATE_QUEUE_PAIRS = 8; // u16: frames are received on the queues of the first ones
export const NET_STATE_LINK_DOWN = 10; // u8
export const NET_STATE_ANNOUNCE = 11; // u8, the driver has not yet announced itself as asked
export const NET_STATE_MAC = 12; // 6 bytes: the driver's address

// The bound of one call into the core, in rounds of all its loops together: the most that honest
// work takes is a queue of 256 chains of 256 descriptors each, and a check of the whole state. The
// build plants the counter (tools/build-core.ts); past it the call traps.
export const STEPS_PER_CALL = 1000000;

// --- Incidents: indexes into COUNTERS -----------------------------------------------------------

export const INCIDENT_WIDTH = 0; // an access of a width or alignment the register does not allow
export const INCIDENT_REGISTER = 1; // a register that does not exist, or written though read-only
export const INCIDENT_STATUS = 2; // an illegal device status transition
export const INCIDENT_FROZEN = 3; // a queue register written while the queue is live
export const INCIDENT_QUEUE_CONFIG = 4; // a queue enabled with an impossible size or address
export const INCIDENT_NOTIFY = 5; // a kick of a queue that is not live
export const INCIDENT_AVAIL_INDEX = 6; // the available index jumped by more than the queue size
export const INCIDENT_HEAD = 7; // a head out of range, or already in flight
export const INCIDENT_CHAIN = 8; // a loop, a bad next, bad flags, a bad indirect table, a bad order
export const INCIDENT_MEMORY = 9; // a ring, table or buffer outside guest RAM
export const INCIDENT_REQUEST = 10; // a well-formed chain that holds a malformed request
export const INCIDENT_TAG = 11; // a completion for a request that is not in flight (host's mistake)
export const INCIDENT_OVERRUN = 12; // a byte lost in a full FIFO
export const INCIDENT_FEATURES = 13; // feature bits accepted that were not offered

// --- Register access ----------------------------------------------------------------------------

// read() leaves its value here, as u32 zero-extended to u64; 8-byte reads of absent things give
// all ones.
export const OUTBOX_VALUE = OUTBOX;

// --- Request record: written to OUTBOX + 16 when EFFECT_REQUEST is set --------------------------

export const REQUEST = OUTBOX + 16;
export const REQUEST_KIND = 0; // u32, REQUEST_KIND_*
export const REQUEST_TAG = 4; // u32: see TAG_*
export const REQUEST_OFFSET = 8; // u64, byte offset on the disk
export const REQUEST_LENGTH = 16; // u64, bytes in all: of the ranges, or of the disk for no ranges
export const REQUEST_RANGE_COUNT = 24; // u32
export const REQUEST_FLAGS = 28; // u32, REQUEST_FLAG_*
export const REQUEST_RANGES = 32; // then the ranges; for CONSOLE_OUT the bytes themselves
export const RANGE_ADDRESS = 0; // u64, guest-physical
export const RANGE_LENGTH = 8; // u32, bytes; 4 bytes of zero follow
export const RANGE_STRIDE = 16;
export const RANGE_COUNT_MAX = 256;
export const REQUEST_BYTES_MAX = REQUEST_RANGES + RANGE_COUNT_MAX * RANGE_STRIDE;

export const REQUEST_KIND_BLK_IN = 1; // disk to guest memory
export const REQUEST_KIND_BLK_OUT = 2; // guest memory to disk
export const REQUEST_KIND_BLK_FLUSH = 3;
export const REQUEST_KIND_BLK_DISCARD = 4; // no ranges: offset and length are of the disk
export const REQUEST_KIND_BLK_WRITE_ZEROES = 5; // likewise
export const REQUEST_KIND_ENTROPY = 6; // fill the ranges with random bytes
export const REQUEST_KIND_CONSOLE_OUT = 7; // length inline bytes; needs no complete()
// A frame to send, without its struct virtio_net_hdr, whose first eight bytes stand in the record's
// offset and the last four in its flags.
export const REQUEST_KIND_NET_TX = 8;
// A buffer for a received frame, or for a part of one: its header goes to the start of it.
export const REQUEST_KIND_NET_RX = 9;
// With NET_FLAG_VHOST, in place of chains: the queue's three rings (descriptor table, available,
// used), the features negotiated as the offset and the queue's size as the flags. Tag 0.
export const REQUEST_KIND_NET_RINGS = 10;

export const REQUEST_FLAG_UNMAP = 1; // WRITE_ZEROES may deallocate
export const REQUEST_FLAG_SYNC = 2; // the data must be on stable storage before complete()

// A tag is generation << 20 | queue index << 15 | head descriptor index. The generation goes up
// with every request of the same head, so that a late completion never hits a newer request.
export const TAG_QUEUE_SHIFT = 15;
export const TAG_QUEUE_MASK = 0x1f;
export const TAG_HEAD_MASK = 0x7fff;
export const TAG_GENERATION_SHIFT = 20;
export const TAG_GENERATION_MASK = 0xfff;

// One virtio-rng request asks for no more than this; the spec lets a device return fewer bytes.
export const ENTROPY_BYTES_MAX = 0x10000;

// Results: the second argument of complete().
export const RESULT_OK = 0;
export const RESULT_IOERR = 1;
export const RESULT_UNSUPPORTED = 2;

// --- Device configuration: written to INBOX before init() ---------------------------------------

// Answers of init() and check() (not effect bits).
export const VALID = 0;
export const INVALID_KIND = 1;
export const INVALID_CONFIG = 2;
export const INVALID_STATE = 3;

// virtio-blk
export const BLK_CONFIG_CAPACITY = 0; // u64, sectors of 512 bytes
export const BLK_CONFIG_FLAGS = 8; // u32, BLK_FLAG_*
export const BLK_CONFIG_BLK_SIZE = 12; // u32, bytes: 512 to 4096, a power of two
export const BLK_CONFIG_SIZE_MAX = 16; // u32, bytes in one segment, at least 512; 0: not offered
export const BLK_CONFIG_SEG_MAX = 20; // u32, data segments in one request; 1 to queue size - 2
export const BLK_CONFIG_PHYSICAL_BLOCK_EXP = 24; // u8
export const BLK_CONFIG_ALIGNMENT_OFFSET = 25; // u8
export const BLK_CONFIG_MIN_IO_SIZE = 26; // u16, blocks
export const BLK_CONFIG_OPT_IO_SIZE = 28; // u32, blocks
export const BLK_CONFIG_QUEUE_COUNT = 32; // u16, 1 to BLK_QUEUE_COUNT_MAX
export const BLK_CONFIG_QUEUE_SIZE = 34; // u16, a power of two from 4 to QUEUE_SIZE_MAX
export const BLK_CONFIG_MAX_DISCARD_SECTORS = 36; // u32, not 0 with BLK_FLAG_DISCARD
export const BLK_CONFIG_DISCARD_ALIGNMENT = 40; // u32, sectors, not 0 with BLK_FLAG_DISCARD
export const BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS = 44; // u32, not 0 with BLK_FLAG_WRITE_ZEROES
export const BLK_CONFIG_ID = 48; // 20 bytes, padded with zeros
export const BLK_CONFIG_BYTES = 68;

export const BLK_FLAG_RO = 1; // the device is read-only: not with DISCARD or WRITE_ZEROES
export const BLK_FLAG_DISCARD = 2; // offer DISCARD
export const BLK_FLAG_WRITE_ZEROES = 4; // offer WRITE_ZEROES, with unmap
export const BLK_FLAG_WRITEBACK = 8; // the write cache is on at start (config field `writeback`)
export const BLK_ID_BYTES = 20;

// virtio-rng
export const RNG_CONFIG_QUEUE_SIZE = 0; // u16, a power of two up to QUEUE_SIZE_MAX
export const RNG_CONFIG_BYTES = 2;

// virtio-net
export const NET_CONFIG_MAC = 0; // 6 bytes, not a multicast address
export const NET_CONFIG_MTU = 6; // u16, bytes, at least 68; 0: not offered
export const NET_CONFIG_QUEUE_PAIRS = 8; // u16, 1 to NET_QUEUE_PAIRS_MAX
export const NET_CONFIG_QUEUE_SIZE = 10; // u16, a power of two from 4 to QUEUE_SIZE_MAX
export const NET_CONFIG_FLAGS = 12; // u32, NET_FLAG_*
export const NET_CONFIG_OFFLOADS = 16; // u64, VIRTIO_NET_F_*: offloads that the backend can do
export const NET_CONFIG_BYTES = 24;

export const NET_FLAG_VHOST = 1; // the kernel serves the receive and transmit queues (vhost-net)
export const NET_FLAG_FIXED_MAC = 2; // the driver may not change its address

// struct virtio_net_hdr, and the frames behind it: 64 KiB and an Ethernet header with a VLAN tag.
export const NET_HEADER_BYTES = 12;
export const NET_FRAME_BYTES_MIN = 14; // an Ethernet header
export const NET_FRAME_BYTES_MAX = 65553;

// virtio-net: what input() takes when the host's side of the link changes.
export const NET_INPUT_LINK = 0; // u8, the link is up
export const NET_INPUT_ANNOUNCE = 1; // u8, 1: the driver shall announce itself
export const NET_INPUT_BYTES = 2;

// What the VendorID register of every virtio device reads ('FRDY').
export const VIRTIO_VENDOR_ID = 0x59445246;

export const BLK_QUEUE_COUNT_MAX = 8;
export const NET_QUEUE_PAIRS_MAX = 8;
export const QUEUE_COUNT_MAX = 17; // the pairs of a network device and its control queue
export const QUEUE_SIZE_MAX = 256;

// RTC: before each register access the host writes the Unix time here and calls input(8).
export const RTC_TIME = 0; // u64, seconds since 1970-01-01 00:00 UTC

// --- Addresses every machine shares (docs/memory-map.md) ----------------------------------------

export const PORT_I8042_DATA = 0x60;
export const PORT_I8042_COMMAND = 0x64;
export const PORT_RTC = 0x70;
export const PORT_BOOT_TIMER = 0x3f0;
export const PORT_SERIAL = 0x3f8;
export const PORT_PVPANIC = 0x505;
export const PORT_ACPI_PM = 0x600; // +0 sleep control, +1 sleep status, +2 reset
export const ACPI_S5_SLEEP_TYPE = 5; // SLP_TYP of \_S5 in the DSDT
export const ACPI_RESET_VALUE = 0x42; // what the FADT's reset register takes
export const BOOT_TIMER_MARKER = 123; // 'user space reached', as Firecracker's users know it
