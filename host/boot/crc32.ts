// CRC-32 as IEEE 802.3 has it (section 3.2.9), bits reflected. Node's own came after Node 20.
// It runs once, cold: by index, as an iterator costs a millisecond there, and with signed numbers,
// as those past 2^31 would each become an object.
const POLYNOMIAL = 0xedb88320 | 0;

function makeTable(): Int32Array {
  const table = new Int32Array(256);
  for (let byte = 0; byte < table.length; byte++) {
    let remainder = byte;
    for (let bit = 0; bit < 8; bit++) {
      remainder = remainder & 1 ? (remainder >>> 1) ^ POLYNOMIAL : remainder >>> 1;
    }
    table[byte] = remainder;
  }
  return table;
}

export function crc32(bytes: Uint8Array): number {
  const table = makeTable();
  let remainder = -1;
  for (let index = 0; index < bytes.length; index++) {
    remainder = (remainder >>> 8) ^ table[(remainder ^ bytes[index]) & 0xff];
  }
  return ~remainder >>> 0;
}
