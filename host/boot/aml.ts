// A small writer of AML, the byte code in which a DSDT describes devices.
// ACPI 6.4, sections 20.2 (AML grammar), 6.4 (resource descriptors), 6.1.5 (EISA ids).
// Left out: methods, fields, and everything else that a static list of devices does not need.

const NAME_OP = 0x08;
const BYTE_PREFIX = 0x0a;
const WORD_PREFIX = 0x0b;
const DWORD_PREFIX = 0x0c;
const STRING_PREFIX = 0x0d;
const SCOPE_OP = 0x10;
const BUFFER_OP = 0x11;
const PACKAGE_OP = 0x12;
const EXT_OP_PREFIX = 0x5b;
const DEVICE_OP = 0x82;

// Small resource items carry their length in the tag, large ones in the next two bytes.
const IO_PORT_DESCRIPTOR = 0x47;
const END_TAG = 0x79;
const MEMORY_32_FIXED_DESCRIPTOR = 0x86;
const EXTENDED_INTERRUPT_DESCRIPTOR = 0x89;

const INTERRUPT_CONSUMER_EDGE_HIGH = 0x03; // bit 0 consumer, bit 1 edge; high and exclusive are 0
const IO_DECODE_16 = 1;
const READ_WRITE = 1;

/** Encoded AML, or a resource descriptor. */
export type Aml = number[];

/** All parts in a row. A spread would make an object for each byte, at each start of a guest. */
export const join = (...parts: Aml[]): Aml => ([] as Aml).concat(...parts);

function bytesOf(text: string): Aml {
  const bytes: Aml = [];
  for (let index = 0; index < text.length; index++) bytes.push(text.charCodeAt(index));
  return bytes;
}

const word = (value: number): Aml => [value & 0xff, (value >>> 8) & 0xff];
const dword = (value: number): Aml => join(word(value), word(value >>> 16));

/** A PkgLength counts itself: one byte up to 63, else a nibble and one to three bytes (20.2.4). */
function withLength(body: Aml): Aml {
  if (body.length + 1 < 0x40) return join([body.length + 1], body);
  for (let extra = 1; extra <= 3; extra++) {
    const total = body.length + 1 + extra;
    if (total >= 2 ** (4 + 8 * extra)) continue;
    const head = [(extra << 6) | (total & 0xf)];
    for (let index = 0; index < extra; index++) head.push((total >>> (4 + 8 * index)) & 0xff);
    return join(head, body);
  }
  throw new RangeError(`an AML package of ${body.length} bytes is past the format's limit`);
}

/** A name such as 'COM1' or '_HID': padded to four characters with underscores (20.2.2). */
function nameString(path: string): Aml {
  return bytesOf(path.padEnd(4, '_'));
}

export function integer(value: number): Aml {
  if (value === 0 || value === 1) return [value]; // ZeroOp and OneOp
  if (value <= 0xff) return [BYTE_PREFIX, value];
  if (value <= 0xffff) return join([WORD_PREFIX], word(value));
  return join([DWORD_PREFIX], dword(value));
}

export function string(text: string): Aml {
  return join([STRING_PREFIX], bytesOf(text), [0]);
}

/** 'PNP0501' as the 32-bit number the specification packs it into (6.1.5). */
export function eisaId(id: string): Aml {
  const letters = [...id.slice(0, 3)].map((letter) => letter.charCodeAt(0) - 0x40);
  const vendor = (letters[0] << 10) | (letters[1] << 5) | letters[2];
  const product = Number.parseInt(id.slice(3), 16);
  return [DWORD_PREFIX, vendor >>> 8, vendor & 0xff, product >>> 8, product & 0xff];
}

export function name(path: string, value: Aml): Aml {
  return join([NAME_OP], nameString(path), value);
}

export function scope(path: string, ...body: Aml[]): Aml {
  return join([SCOPE_OP], withLength(join(nameString(path), ...body)));
}

export function device(path: string, ...body: Aml[]): Aml {
  return join([EXT_OP_PREFIX, DEVICE_OP], withLength(join(nameString(path), ...body)));
}

export function packageOf(...elements: Aml[]): Aml {
  return join([PACKAGE_OP], withLength(join([elements.length], ...elements)));
}

/** A buffer of resource descriptors with its end tag; a checksum of 0 means 'not used'. */
export function resourceTemplate(...resources: Aml[]): Aml {
  const body = join(...resources, [END_TAG, 0]);
  return join([BUFFER_OP], withLength(join(integer(body.length), body)));
}

export function memory32Fixed(address: number, lengthBytes: number): Aml {
  const body = join([READ_WRITE], dword(address), dword(lengthBytes));
  return join([MEMORY_32_FIXED_DESCRIPTOR], word(body.length), body);
}

export function ioPorts(port: number, count: number): Aml {
  const alignment = 1;
  const both = join(word(port), word(port)); // the least and the most
  return join([IO_PORT_DESCRIPTOR, IO_DECODE_16], both, [alignment, count]);
}

/** An interrupt on IOAPIC pin `gsi`: edge-triggered, active high, not shared. */
export function interrupt(gsi: number): Aml {
  const body = join([INTERRUPT_CONSUMER_EDGE_HIGH, 1], dword(gsi));
  return join([EXTENDED_INTERRUPT_DESCRIPTOR], word(body.length), body);
}
