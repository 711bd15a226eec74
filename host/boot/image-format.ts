// The machine image as bytes: what a cell is started from, in a file or behind a descriptor.
// docs/image.md draws it. All numbers little-endian; the build makes C macros of this file's
// (IMAGE_), and shim/image.c checks every field as hostile input.

export const MAGIC = 0x49445246; // 'FRDI'
export const VERSION = 2;

// --- Header -------------------------------------------------------------------------------------

export const HEADER_MAGIC = 0; // u32
export const HEADER_VERSION = 4; // u32
export const HEADER_ABI_VERSION = 8; // u32, ABI_VERSION of the core it was made for
export const HEADER_CHECKSUM = 12; // u32, CRC-32 (IEEE 802.3) of CHECKED_START to TABLES_END
export const HEADER_MEMORY_BYTES = 16; // u64
export const HEADER_CPU_COUNT = 24; // u32
export const HEADER_FLAGS = 28; // u32, FLAG_*
export const HEADER_HUGE_PAGES = 32; // u32, HUGE_PAGES_*
export const HEADER_SEGMENT_COUNT = 36; // u32
export const HEADER_DEVICE_COUNT = 40; // u32
export const HEADER_FILE_COUNT = 44; // u32, descriptors passed beside the image
export const HEADER_FILE_BYTES = 48; // u64, length of the image itself
export const HEADER_REGISTERS = 64; // ten u64: rip rsp rbx rsi cr0 cr3 cr4 efer gdtBase idtBase
export const HEADER_GDT_LIMIT = 144; // u32
export const HEADER_IDT_LIMIT = 148; // u32
export const HEADER_CODE = 152; // a segment register
export const HEADER_DATA = 176; // a segment register: ds, es, fs, gs, ss
export const HEADER_TASK = 200; // a segment register
export const HEADER_BYTES = 256; // what is not named is zero
export const CHECKED_START = 16;

export const FLAG_BOOT_TIMER = 1; // the machine has a boot timer
export const FLAG_PREFAULT = 2; // touch all of guest RAM before the guest starts

export const HUGE_PAGES_OFF = 0;
export const HUGE_PAGES_TRANSPARENT = 1;
export const HUGE_PAGES_2M = 2; // from the host's pool of them

// A segment register, 24 bytes.
export const REGISTER_BASE = 0; // u64
export const REGISTER_LIMIT = 8; // u32
export const REGISTER_SELECTOR = 12; // u16
export const REGISTER_TYPE = 14; // u8 each, from here on
export const REGISTER_PRESENT = 15;
export const REGISTER_DPL = 16;
export const REGISTER_DB = 17;
export const REGISTER_S = 18;
export const REGISTER_L = 19;
export const REGISTER_G = 20;

// --- Segments -----------------------------------------------------------------------------------

export const SEGMENTS = 256;
export const SEGMENT_COUNT_MAX = 64;
export const SEGMENT_STRIDE = 32;
export const SEGMENT_ADDRESS = 0; // u64, guest-physical
export const SEGMENT_LENGTH = 8; // u64, bytes, not 0
export const SEGMENT_OFFSET = 16; // u64, in its file
export const SEGMENT_FILE = 24; // u32: 0 the image itself, n the n-th descriptor passed

// --- Virtio devices -----------------------------------------------------------------------------

export const DEVICES = 2304;
export const DEVICE_COUNT_MAX = 16;
export const DEVICE_STRIDE = 256;
export const DEVICE_KIND = 0; // u32, KIND_VIRTIO_*
export const DEVICE_PIN = 4; // u32, IOAPIC pin
export const DEVICE_ADDRESS = 8; // u64, of its window
export const DEVICE_FLAGS = 16; // u32, DEVICE_FLAG_*
export const DEVICE_QUEUE_COUNT = 20; // u32
export const DEVICE_CAPACITY_BYTES = 24; // u64, of a disk
export const DEVICE_CONFIG_BYTES = 32; // u32
// u32, of a disk: the n-th descriptor passed, or 0: by its path. Of a network device: the first of
// one descriptor for each of its queue pairs, and with DEVICE_FLAG_VHOST as many of vhost-net.
export const DEVICE_FILE = 36;
export const DEVICE_PATH_OFFSET = 40; // u64, in the image; with DEVICE_FILE 0
export const DEVICE_PATH_BYTES = 48; // u32, without a NUL
export const DEVICE_NAME = 56; // text padded with NULs: the id of a disk or network device
export const DEVICE_NAME_BYTES = 24;
export const DEVICE_CONFIG = 80; // as the core's init() takes it
export const DEVICE_CONFIG_BYTES_MAX = 128;

export const DEVICE_FLAG_READ_ONLY = 1;
export const DEVICE_FLAG_IO_URING = 2; // else one request after the other, by preadv and pwritev
export const DEVICE_FLAG_VHOST = 4; // the kernel serves the queues of the network device
export const DEVICE_FLAG_STREAM = 8; // its descriptor is a stream socket of frames (passt)
export const DEVICE_FLAG_MAC_FILTER = 16; // frames from another address than its own are dropped

// The rate limiters of a network device, behind its configuration: four token buckets.
export const DEVICE_LIMITS = 112;
export const LIMIT_RX_BYTES = 0;
export const LIMIT_RX_FRAMES = 1;
export const LIMIT_TX_BYTES = 2;
export const LIMIT_TX_FRAMES = 3;
export const LIMIT_COUNT = 4;
export const LIMIT_STRIDE = 24;
export const LIMIT_SIZE = 0; // u64, tokens that the bucket holds; 0: no limit
export const LIMIT_ONE_TIME_BURST = 8; // u64, tokens on top of that, once
export const LIMIT_REFILL_MS = 16; // u64, milliseconds in which an empty bucket fills

export const TABLES_END = 6400;
export const PAYLOAD = 8192; // what segments of file 0 and paths point to lies from here on
