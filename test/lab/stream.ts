// What leaves an emulated host by its virtio-serial port: the command's output, with marks in it.
// A mark is NUL, the run's nonce, a space, a text and LF; host-run.sh writes them.

const NUL = 0;
const LF = 10;

export interface StreamEvents {
  onOutput(bytes: Uint8Array): void;
  onMark(text: string): void;
}

/** The length of the longest end of `bytes` that could be the beginning of a mark. */
function possibleHead(bytes: Buffer, head: Buffer): number {
  // A nonce holds no NUL, so a mark can begin only at the last one.
  const start = bytes.lastIndexOf(NUL);
  const length = start < 0 ? 0 : bytes.length - start;
  return length < head.length && bytes.subarray(start).equals(head.subarray(0, length))
    ? length
    : 0;
}

/** Returns a function to feed with chunks: it tells output from marks, however they are cut. */
export function splitStream(nonce: string, events: StreamEvents): (chunk: Uint8Array) => void {
  const head = Buffer.from(`\0${nonce} `);
  let held = Buffer.alloc(0); // a mark, or what may become one

  const output = (bytes: Buffer) => {
    if (bytes.length > 0) {
      events.onOutput(bytes);
    }
  };
  return (chunk) => {
    let rest = Buffer.concat([held, chunk]);
    for (;;) {
      const start = rest.indexOf(head);
      const end = start < 0 ? -1 : rest.indexOf(LF, start);
      if (end < 0) {
        const keep = start < 0 ? possibleHead(rest, head) : rest.length - start;
        output(rest.subarray(0, rest.length - keep));
        held = rest.subarray(rest.length - keep);
        return;
      }
      output(rest.subarray(0, start));
      events.onMark(rest.subarray(start + head.length, end).toString());
      rest = rest.subarray(end + 1);
    }
  };
}
