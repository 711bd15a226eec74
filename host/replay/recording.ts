// Reading a recording (docs/replay.md), block by block. Whatever its bytes are, the answer is an
// event or one line that says what is wrong.
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { ABI_VERSION } from '../../assembly/abi.ts';
import { crc32 } from '../boot/crc32.ts';
import { FaradayError } from '../errors.ts';
import {
  BLOCK_BYTES_MAX,
  BLOCK_CHECKSUM,
  BLOCK_HEADER_BYTES,
  Decoder,
  FORMAT_VERSION,
  MAGIC,
  Malformed,
  PREAMBLE_ABI,
  PREAMBLE_BYTES,
  PREAMBLE_FORMAT,
} from './format.ts';
import { parseEvent, parseMachine, type RecordedEvent, type RecordedMachine } from './parse.ts';

export class Recording {
  readonly path: string;
  readonly machine: RecordedMachine;
  /** The CRC-32 of each device's state at the end; known after the last event. */
  stateChecksums: readonly number[] = [];
  private readonly fd: number;
  readonly sizeBytes: number;
  private offset = PREAMBLE_BYTES;

  constructor(path: string) {
    this.path = path;
    this.fd = this.open();
    this.sizeBytes = fstatSync(this.fd).size;
    try {
      this.checkPreamble();
      this.machine = this.within(0, () => parseMachine(this.nextBlock()));
    } catch (error) {
      this.close();
      throw error;
    }
  }

  close(): void {
    closeSync(this.fd);
  }

  /** The file up to the last block that events() has read. */
  goodBytes(): Uint8Array {
    return this.read(0, this.offset);
  }

  bad(finding: string): FaradayError {
    return new FaradayError('bad-recording', `recording '${this.path}' ${finding}`);
  }

  /** All events in order. Throws a FaradayError where the file does not hold what it should. */
  *events(): Generator<RecordedEvent> {
    let timeUs = 0;
    for (let number = 1; ; ) {
      const block = this.nextBlock();
      while (!block.done) {
        const event = this.within(number, () =>
          parseEvent(block, this.machine.devices.length, timeUs),
        );
        if (!event) return this.end(number, block);
        timeUs = event.timeUs;
        yield event;
        number++;
      }
    }
  }

  private end(number: number, block: Decoder): void {
    const { devices } = this.machine;
    this.stateChecksums = this.within(number, () => devices.map(() => block.u32()));
    if (!block.done || this.offset !== this.sizeBytes) throw this.bad('goes on behind its end');
  }

  /** Runs a parser; what it finds malformed is told with its place. */
  private within<T>(number: number, parse: () => T): T {
    try {
      return parse();
    } catch (error) {
      if (!(error instanceof Malformed)) throw error;
      const place = number === 0 ? 'its header' : `event ${number}`;
      throw this.bad(`is damaged: ${error.message} in ${place}`);
    }
  }

  private open(): number {
    try {
      const fd = openSync(this.path, constants.O_RDONLY | constants.O_NONBLOCK);
      if (fstatSync(fd).isFile()) return fd;
      closeSync(fd);
    } catch (error) {
      throw this.bad(`cannot be read (${(error as NodeJS.ErrnoException).code})`);
    }
    throw this.bad('is no regular file; name a file of faraday run --record');
  }

  private checkPreamble(): void {
    if (this.sizeBytes < PREAMBLE_BYTES) throw this.bad('is no recording, or was cut short');
    const preamble = this.read(0, PREAMBLE_BYTES);
    if (preamble.toString('latin1', 0, MAGIC.length) !== MAGIC) {
      throw this.bad('is no recording; name a file of faraday run --record');
    }
    const format = preamble.readUInt32LE(PREAMBLE_FORMAT);
    const abi = preamble.readUInt32LE(PREAMBLE_ABI);
    if (format !== FORMAT_VERSION) {
      throw this.bad(`has format ${format}, and this faraday reads ${FORMAT_VERSION}`);
    }
    if (abi !== ABI_VERSION) {
      throw this.bad(`is of a core with ABI ${abi}, and this one has ${ABI_VERSION}`);
    }
  }

  private nextBlock(): Decoder {
    const left = this.sizeBytes - this.offset;
    const cut = () => this.bad(`ends early, at byte ${this.sizeBytes}: it was cut, or never ended`);
    if (left < BLOCK_HEADER_BYTES) throw cut();
    const header = this.read(this.offset, BLOCK_HEADER_BYTES);
    const length = header.readUInt32LE();
    if (length > BLOCK_BYTES_MAX) throw this.bad(`is damaged at byte ${this.offset}`);
    if (length > left - BLOCK_HEADER_BYTES) throw cut();
    const payload = this.read(this.offset + BLOCK_HEADER_BYTES, length);
    if (crc32(payload) !== header.readUInt32LE(BLOCK_CHECKSUM)) {
      throw this.bad(`is damaged between bytes ${this.offset} and ${this.offset + length}`);
    }
    this.offset += BLOCK_HEADER_BYTES + length;
    return new Decoder(payload);
  }

  private read(offset: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    try {
      for (let done = 0; done < length; ) {
        const count = readSync(this.fd, bytes, done, length - done, offset + done);
        if (count === 0) throw this.bad('is being cut while it is read');
        done += count;
      }
    } catch (error) {
      if (error instanceof FaradayError) throw error;
      throw this.bad(`cannot be read (${(error as NodeJS.ErrnoException).code})`);
    }
    return bytes;
  }
}
