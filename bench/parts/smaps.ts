// /proc/PID/smaps, summed up without the guest's own memory. See proc(5).

interface Mapping {
  start: number;
  end: number;
  privateBytes: number; // Private_Clean and Private_Dirty
  name: string;
}

const HEAD = /^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+\s*(.*)$/;
const PRIVATE = /^Private_(?:Clean|Dirty|Hugetlb): +(\d+) kB$/;

function parse(text: string): Mapping[] {
  const mappings: Mapping[] = [];
  for (const line of text.split('\n')) {
    const head = HEAD.exec(line);
    if (head) {
      const [start, end] = [Number(`0x${head[1]}`), Number(`0x${head[2]}`)];
      mappings.push({ start, end, privateBytes: 0, name: head[3]! });
    }
    const amount = PRIVATE.exec(line);
    if (amount) mappings.at(-1)!.privateBytes += Number(amount[1]) * 1024;
  }
  return mappings;
}

/**
 * Where the guest's memory is: neighbours without a gap that are together exactly as large. More
 * than one, because parts of files may be mapped into it. Undefined where there is none.
 */
function guestMemory(mappings: Mapping[], bytes: number): Mapping[] | undefined {
  for (const [first, { start }] of mappings.entries()) {
    let last = first;
    while (mappings[last + 1]?.start === mappings[last]!.end) {
      if (mappings[last]!.end - start >= bytes) break;
      last++;
    }
    if (mappings[last]!.end - start === bytes) return mappings.slice(first, last + 1);
  }
  return undefined;
}

const sum = (mappings: Mapping[]) => {
  return mappings.reduce((total, each) => total + each.privateBytes, 0);
};

/** Bytes that a process has for itself alone. */
export function privateBytes(smaps: string): number {
  return sum(parse(smaps));
}

/** The same without the memory of its guest. Undefined where that is not found. */
export function privateBytesBesideGuest(smaps: string, guestBytes: number): number | undefined {
  const mappings = parse(smaps);
  const guest = guestMemory(mappings, guestBytes);
  return guest && sum(mappings) - sum(guest);
}
