// The numbers that the fuzz machine and its driver in TypeScript share: asc and tsc read this same
// file, so its constants carry no type annotation (as assembly/abi.ts).
//
// The machine is one WebAssembly module: the instrumented core, and around it what plays the
// guest's driver, mutates, watches and counts (docs/fuzzing.md). All lies in one memory; the
// core's own 128 KiB come first, and nothing of the core reaches past them.

export const MEMORY_PAGES = 128;

// --- Places in memory ----------------------------------------------------------------------------

export const EDGES = 0x20000; // a counter of one byte per edge
export const EDGES_MAX = 0x2000;
export const VIRGIN = 0x22000; // per edge: the count classes that no input has reached, as bits
export const DIRTY = 0x24000; // a byte per block of memory, not 0 where this run wrote
export const DIRTY_SHIFT = 9;
export const ALWAYS_DIRTY = 0x24800; // blocks that the core writes by fixed address, likewise
export const DICTIONARY = 0x25000; // u64 values seen in comparisons
export const DICTIONARY_MAX = 256;
export const COMPARISONS = 0x25800; // pairs of u64
export const COMPARISONS_MAX = 256;
export const PROGRAM = 0x26800; // the present one, in the form of a corpus entry
export const ACCESSES = 0x380000; // of one program, as entries of the access log
export const ACCESSES_BYTES = 0x80000;
export const WALK = 0x28000; // segments of the chain at hand: address u64, length u32, flags u32
export const WALK_MAX = 257;
export const HEADS = 0x2a000; // per queue and head, 16 bytes: what the guest is owed
export const FLIGHTS = 0x3b000; // requests that the host has, 16 bytes each
export const NET_HEADER = 0x3b800; // of the frame at hand, as the core read it
export const RAM = 0x40000; // guest memory from address 0
export const RAM_BYTES = 0x10000;
export const SNAPSHOTS = 0x60000; // of cage and guest memory, one per variant
export const SNAPSHOT_STRIDE = 0x30000;
export const VARIANTS_MAX = 8;
export const TRACE = 0x200000;
export const TRACE_BYTES = 0x100000;
export const CORPUS = 0x400000;
export const CORPUS_MAX = 3600;
export const HELD = 0x7a0000; // per queue and place in the order, 16 bytes: receive buffers held
export const HELD_COUNTS = 0x7b8000; // per queue, 8 bytes: how many of them there are

// --- Programs ------------------------------------------------------------------------------------

// An entry: action count u32, variant u32, 8 bytes unused; then the actions.
export const ENTRY_COUNT = 0;
export const ENTRY_VARIANT = 4;
export const ENTRY_ACTIONS = 16;
export const ACTION_BYTES = 16;
export const ACTIONS_MAX = 64;
export const ENTRY_BYTES = 1040;

// An action: op u8, a u8, b u16, c u32, d u64.
export const ACTION_A = 1;
export const ACTION_B = 2;
export const ACTION_C = 4;
export const ACTION_D = 8;

export const OP_DESCRIPTOR = 0; // a index, b flags | next << 8, c length, d address
export const OP_OFFER = 1; // a queue, b head
export const OP_NOTIFY = 2; // a queue | how << 4: NOTIFY_*
export const OP_NEXT = 3; // a queue
// a: which request in flight, from 0x80 on with a tag one generation off (0xff: c is the tag)
export const OP_COMPLETE = 4; // b result, d bytes
export const OP_READ = 5; // a width, b offset
export const OP_WRITE = 6; // a width, b offset, c value
export const OP_POKE = 7; // a width, b guest address, d value
export const OP_AVAIL_INDEX = 8; // a queue, b value
export const OP_EVENT = 9; // a queue, b used event, c available ring's flags
export const OP_HEADER = 10; // b slot, c type, d sector
export const OP_REQUEST = 11; // a type | queue << 7, b first descriptor, c sector, d: SHAPE_*
export const OP_BRING_UP = 12; // a log2 of the queue size, b queue count, c features >> 28
export const OP_INPUT = 13; // a length, d bytes
export const OP_TIME = 14; // d Unix seconds
export const OP_RESET = 15;
export const OP_FAIL = 16;
export const OP_STATE = 17; // a width, b offset in the state region, d value; then a check
export const OP_TABLE = 18; // a descriptor that names an indirect table: a index, b slot, c length

export const OP_FRAME = 19; // a queue, b first descriptor | slot << 8, c header's start, d: FRAME_*
// a queue, b first descriptor | further buffers << 8 | SHAPE_* << 12; c length of the first piece
// of each and, in the upper half, of the others; d further pieces, then the buffer (page of 256
// bytes)
export const OP_BUFFERS = 20;
// to the control queue: b first descriptor | slot << 8; c class, command, bytes of data, SHAPE_*;
// d data, or of a command with address tables their two counts
export const OP_COMMAND = 21;
// a queue, from 0x80 on with a tag one generation off; b which buffer it has, from the oldest on,
// | result << 8; d bytes
export const OP_RECEIVE = 22;
export const OP_RESTORE = 23; // the state is saved, and another instance goes on with it

export const NOTIFY_BY_REGISTER = 1;
export const NOTIFY_COMPLETE = 2; // the host carries every request out at once
export const NOTIFY_ONCE = 4; // no next(): work stays behind

export const SHAPE_INDIRECT = 1;
export const SHAPE_SPLIT_HEADER = 2;
export const SHAPE_WRONG_WAY = 4;
export const SHAPE_NO_STATUS = 8;
export const SHAPE_EMPTY_STATUS = 16;

// A frame. Byte 0: SHAPE_*; byte 1: descriptors behind the header's; bytes 2 to 3: the length of
// each; byte 4: the buffer (page of 256 bytes); bytes 5 to 7: start and offset of the checksum and
// the length of the headers.
export const FRAME_SEGMENTS = 8; // shifts
export const FRAME_LENGTH = 16;
export const FRAME_BUFFER = 32;
export const FRAME_CSUM_START = 40;
export const FRAME_CSUM_OFFSET = 48;
export const FRAME_HDR_LEN = 56;

// --- Where the machine's driver puts things in guest memory --------------------------------------

// An area for each of the first two queues, and for those of further pairs of a network device,
// which have 16 descriptors at most, a part of it.
export const QUEUE_AREA = 0x2000;
export const PAIR_AREA = 0x100;
export const AVAIL_RING = 0x1000;
export const USED_RING = 0x1400;
export const TABLES = 0x4000;
export const HEADERS = 0x6000;
export const STATUSES = 0x7000;
export const BUFFERS = 0x8000;

// --- Answers of run() and the like ---------------------------------------------------------------

export const RUN_DONE = 0; // nothing new
export const RUN_NEW = 1; // the program in PROGRAM reaches what none did before
export const RUN_VIOLATION = 2; // it broke a rule: see violation()

// --- What an oracle found ------------------------------------------------------------------------

export const RULE_NONE = 0;
export const RULE_STATE_REGION = 1; // a computed access outside of the core's own memory
export const RULE_NO_ACCESS = 2; // guest memory touched by a call that has no business there
export const RULE_READ = 3; // a read that is no next step: a second fetch, or a wrong place
export const RULE_WRITE = 4; // a write outside the buffers, or against their direction
export const RULE_LOAD = 5; // a 16-bit load of another place, or out of turn
export const RULE_STORE = 6; // a 16-bit store of another place or value, or out of turn
export const RULE_USED_LENGTH = 7; // the used ring claims another number of bytes
export const RULE_USED_HEAD = 8; // a head given back that was not taken, or is another's
export const RULE_LOST = 9; // a head taken, and neither answered nor handed out
export const RULE_RECORD = 10; // a request record that is not what the chain says
export const RULE_STEPS = 11; // more work than the queue can ask for
export const RULE_EFFECTS = 12; // effects that the kind of device cannot have
export const RULE_FENCE = 13; // the driver's wish read without a fence after the used index
export const RULE_STATE = 14; // the state cannot be loaded again
export const RULE_CANCEL = 15; // requests that the device called off are still in flight

export const TRACE_WRITE = 1; // the guest's or the host's own: address, length, bytes
export const TRACE_CALL = 2; // export, three arguments
export const TRACE_RETURN = 3; // effects, value, bytes of accesses, bytes of record; the record
export const TRACE_INBOX = 4; // length, bytes
export const TRACE_STATE = 5; // offset, length, bytes
export const TRACE_RESTORE = 6; // another instance, with the state of this one: 0, 0

export const CALL_READ = 1;
export const CALL_WRITE = 2;
export const CALL_NOTIFY = 3;
export const CALL_NEXT = 4;
export const CALL_COMPLETE = 5;
export const CALL_INPUT = 6;
export const CALL_FAIL = 7;
export const CALL_RESET = 8;
export const CALL_CHECK = 9;

export const TARGET_TRANSPORT = 0;
export const TARGET_RING = 1;
export const TARGET_BLK = 2;
export const TARGET_RNG = 3;
export const TARGET_PORT = 4; // serial, i8042, rtc, boot timer, ACPI PM, pvpanic
export const TARGET_STATE = 5;
export const TARGET_NET = 6;
