// The lab's output stream: marks are told from output, however the chunks are cut.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { splitStream } from './lab/stream.ts';

const NONCE = 'abc123';

/** Feeds the chunks; returns what came out, marks in brackets. */
function split(chunks: (string | Buffer)[]): { output: string; marks: string[] } {
  const result = { output: '', marks: [] as string[] };
  const feed = splitStream(NONCE, {
    onOutput: (bytes) => {
      result.output += Buffer.from(bytes).toString('latin1');
    },
    onMark: (text) => result.marks.push(text),
  });
  for (const chunk of chunks) {
    feed(Buffer.from(chunk));
  }
  return result;
}

test('marks are taken out and the output around them stays', () => {
  const { output, marks } = split([`\0${NONCE} started\nhello\n\0${NONCE} 7\n`]);
  assert.is(output, 'hello\n');
  assert.equal(marks, ['started', '7']);
});

test('a stream cut at every byte gives the same', () => {
  const bytes = Buffer.from(`\0${NONCE} started\nhe\0llo\0\0${NONCE} 124 late\n`);
  const { output, marks } = split([...bytes].map((byte) => Buffer.from([byte])));
  assert.is(output, 'he\0llo\0');
  assert.equal(marks, ['started', '124 late']);
});

test("another run's mark is output", () => {
  const { output, marks } = split(['\0zzz999 0\n', '\0abc124 0\n']);
  assert.is(output, '\0zzz999 0\n\0abc124 0\n');
  assert.equal(marks, []);
});

test('output is not held back when it cannot be a mark', () => {
  assert.is(split(['hello']).output, 'hello');
  assert.is(split(['hello\0x']).output, 'hello\0x');
  assert.is(split(['hello\0abc']).output, 'hello');
});

test('many zero bytes pass as they are', () => {
  const zeros = Buffer.alloc(1_000_000);
  assert.is(split([zeros, zeros, 'end']).output.length, 2_000_003);
});

test.run();
