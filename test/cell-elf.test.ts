// build/faraday-cell as a file: static, position-independent, full RELRO, no stack that can be
// executed and no segment that is writable and executable, stack protector in our own code.
// System V ABI, ELF-64 Object File Format 1.5: file header, section header, program header, symbol
// table, dynamic section.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { cellProgram, recordingCellProgram } from '../host/cell-program.ts';
import { REPOSITORY } from '../tools/cache.ts';

const ET_DYN = 3;
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const PT_GNU_STACK = 0x6474e551;
const PT_GNU_RELRO = 0x6474e552;
const PF_X = 1;
const PF_W = 2;
const DT_NEEDED = 1;
const DT_RPATH = 15;
const DT_TEXTREL = 22;
const DT_RUNPATH = 29;
const DT_FLAGS = 30;
const DT_FLAGS_1 = 0x6ffffffb;
const DF_BIND_NOW = 8;
const DF_1_NOW = 1;
const DF_1_PIE = 0x08000000;
const SHT_SYMTAB = 2;
const PAGE_BYTES = 4096;
const RETURN_BYTES = 5; // endbr64; ret

interface Segment {
  type: number;
  flags: number;
  offset: number;
  address: number;
  fileBytes: number;
  memoryBytes: number;
}

interface Section {
  name: string;
  type: number;
  flags: number;
  address: number;
  offset: number;
  bytes: number;
  link: number;
}

class Elf {
  private readonly file: Buffer;

  constructor(path: string) {
    this.file = readFileSync(path);
    assert.is(this.file.toString('latin1', 0, 4), '\x7fELF');
  }

  private u64 = (at: number): number => Number(this.file.readBigUInt64LE(at));
  private u32 = (at: number): number => this.file.readUInt32LE(at);
  private u16 = (at: number): number => this.file.readUInt16LE(at);

  private text(at: number): string {
    return this.file.toString('latin1', at, this.file.indexOf(0, at));
  }

  get type(): number {
    return this.u16(16);
  }

  get segments(): Segment[] {
    return Array.from({ length: this.u16(56) }, (_, i) => {
      const at = this.u64(32) + i * this.u16(54);
      return {
        type: this.u32(at),
        flags: this.u32(at + 4),
        offset: this.u64(at + 8),
        address: this.u64(at + 16),
        fileBytes: this.u64(at + 32),
        memoryBytes: this.u64(at + 40),
      };
    });
  }

  get sections(): Section[] {
    const header = (i: number) => this.u64(40) + i * this.u16(58);
    const names = this.u64(header(this.u16(62)) + 24);
    return Array.from({ length: this.u16(60) }, (_, i) => {
      const at = header(i);
      return {
        name: this.text(names + this.u32(at)),
        type: this.u32(at + 4),
        flags: this.u64(at + 8),
        address: this.u64(at + 16),
        offset: this.u64(at + 24),
        bytes: this.u64(at + 32),
        link: this.u32(at + 40),
      };
    });
  }

  /** Values by tag; of a tag that comes more than once, the last. */
  get dynamic(): Map<number, number> {
    const { offset, fileBytes } = this.segments.find(({ type }) => type === PT_DYNAMIC)!;
    const count = fileBytes / 16;
    const entry = (i: number): [number, number] => {
      return [this.u64(offset + 16 * i), this.u64(offset + 16 * i + 8)];
    };
    return new Map(Array.from({ length: count }, (_, i) => entry(i)));
  }

  /** Names and sizes in bytes. */
  private get symbolSizes(): [string, number][] {
    const all = this.sections;
    const table = all.find(({ type }) => type === SHT_SYMTAB)!;
    const names = all[table.link]!.offset;
    return Array.from({ length: table.bytes / 24 }, (_, i) => {
      const at = table.offset + 24 * i;
      return [this.text(names + this.u32(at)), this.u64(at + 16)];
    });
  }

  get symbols(): string[] {
    return this.symbolSizes.map(([name]) => name);
  }

  sizeOf(name: string): number {
    return new Map(this.symbolSizes).get(name)!;
  }
}

const cell = new Elf(cellProgram());
const ofType = (wanted: number): Segment[] => cell.segments.filter(({ type }) => type === wanted);

test('it is static: no loader, no library, nothing to look for anywhere', () => {
  assert.equal(ofType(PT_INTERP), []);
  for (const tag of [DT_NEEDED, DT_RPATH, DT_RUNPATH]) assert.not.ok(cell.dynamic.has(tag));
});

test('it is position-independent, and its code needs no change for it', () => {
  assert.is(cell.type, ET_DYN);
  assert.ok(cell.dynamic.get(DT_FLAGS_1)! & DF_1_PIE);
  assert.not.ok(cell.dynamic.has(DT_TEXTREL));
  assert.is(ofType(PT_LOAD)[0]!.address, 0);
});

test('full RELRO: everything is bound at the start, then its tables are read-only', () => {
  assert.ok(cell.dynamic.get(DT_FLAGS)! & DF_BIND_NOW);
  assert.ok(cell.dynamic.get(DT_FLAGS_1)! & DF_1_NOW);
  const [relro] = ofType(PT_GNU_RELRO);
  assert.ok(relro, 'there is such a segment');
  const end = relro.address + relro.memoryBytes;
  assert.is(end % PAGE_BYTES, 0, 'whole pages, or its last part would stay writable');
  const wanted = ['.got', '.dynamic', '.data.rel.ro', '.init_array', '.fini_array'];
  for (const { name, address, bytes } of cell.sections) {
    if (!wanted.includes(name)) continue;
    assert.ok(address >= relro.address && address + bytes <= end, name);
  }
  const tables = cell.sections.map(({ name }) => name).filter((name) => name.startsWith('.got'));
  assert.equal(tables, ['.got'], 'no table that is filled in later');
});

test('no segment is writable and executable, nor the stack executable', () => {
  const both = cell.segments.filter(({ flags }) => flags & PF_W && flags & PF_X);
  assert.equal(both, []);
  const stacks = ofType(PT_GNU_STACK);
  assert.is(stacks.length, 1, 'without this the kernel would make it executable');
  assert.is(stacks[0]!.flags & PF_X, 0);
  const executable = ofType(PT_LOAD).filter(({ flags }) => flags & PF_X);
  assert.is(executable.length, 1, 'code is in one segment, without data');
});

test("the stack protector is in the cell's own code, and not only in the C library's", () => {
  const folder = join(REPOSITORY, 'build/obj');
  const guarded = readdirSync(folder)
    .filter((name) => name.endsWith('.c.o'))
    .filter((name) => new Elf(join(folder, name)).symbols.includes('__stack_chk_fail'));
  // Those with arrays on their stacks; a file without has nothing to protect.
  for (const name of ['cell.c.o', 'control.c.o', 'filter.c.o', 'cage.c.o']) {
    assert.ok(guarded.includes(name), `${name}; they are ${guarded}`);
  }
  assert.ok(cell.symbols.includes('__stack_chk_fail'));
});

test('it has nothing of what records: that is another program, hardened alike', () => {
  const recorder = new Elf(join(REPOSITORY, 'build/obj/record.c.o'));
  const recording = new Elf(recordingCellProgram());
  const own = recorder.symbols.filter((name) => /^(__wrap_|put_|write_block)/.test(name));
  assert.ok(own.length > 12, own.join());
  for (const name of own) {
    assert.ok(recording.symbols.includes(name), name);
    assert.not.ok(cell.symbols.includes(name), name);
  }
  const tracing = 'cage_log_accesses'; // in a cage that logs nothing it only returns
  assert.ok(cell.sizeOf(tracing) <= RETURN_BYTES, `${cell.sizeOf(tracing)} bytes`);
  assert.ok(recording.sizeOf(tracing) > RETURN_BYTES);
  assert.is(recording.type, ET_DYN);
  assert.equal(
    recording.segments.filter(({ flags }) => flags & PF_W && flags & PF_X),
    [],
  );
  assert.ok(recording.dynamic.get(DT_FLAGS)! & DF_BIND_NOW);
});

test.run();
