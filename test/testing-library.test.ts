// The library 'faraday/testing' as others get it: built, packed, typed, through its own name.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { build as bundle } from 'esbuild';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { GuestBuffer } from '../testing/queue.ts';
import { REPOSITORY } from '../tools/cache.ts';

// The type checker must not need what the build makes.
type Library = typeof import('../testing/index.ts');
const NAME: string = 'faraday/testing';
const library = (await import(NAME)) as Library;
const { abi, encodeRngConfig, FaradayError, guestMemory, loadCore, loadFuzzer, ReferenceDevice } =
  library;

const BUILT = join(REPOSITORY, 'build/testing');
const coreBytes = readFileSync(join(BUILT, 'core.wasm'));
const core = await loadCore();

const folder = mkdtempSync(join(tmpdir(), 'faraday-testing-'));
test.after(() => rmSync(folder, { recursive: true }));

function run(words: string[], cwd = folder): { status: number | null; text: string } {
  const env = { ...process.env, NODE_EXTRA_CA_CERTS: undefined, npm_config_cache: folder };
  const result = spawnSync(words[0]!, words.slice(1), { cwd, env, encoding: 'utf8' });
  return { status: result.status, text: `${result.stdout}${result.stderr}` };
}

// --- As others use it ---------------------------------------------------------------------------

const EXAMPLE = 'examples/block-device.mjs';
const EXAMPLE_ANSWERS = `ok: write: 0
ok: read: 0
ok: what was read: 51966
ok: past the end: 1
ok: no such request: 2
`;

test('the example runs as its first line says, in 30 lines', () => {
  const { status, text } = run([process.execPath, EXAMPLE], REPOSITORY);
  assert.is(text, EXAMPLE_ANSWERS);
  assert.is(status, 0);
  assert.ok(readFileSync(join(REPOSITORY, EXAMPLE), 'utf8').trimEnd().split('\n').length <= 30);
});

const CONSUMER = `
import { abi, accessesDuring, Driver, guestMemory, kick, loadCore } from 'faraday/testing';
import type { Access, Cage, Core, Executor, RequestRecord } from 'faraday/testing';

const core: Core = await loadCore();
const memory = guestMemory();
const device: Cage = core.createBlk(memory, { capacityBytes: 512 });
const refuse: Executor = (request: RequestRecord) => ({ result: abi.RESULT_IOERR, bytes: 0 });
const accesses: Access[] = accessesDuring(memory, () => {
  new Driver(device, memory).bringUp({ queueSize: 8 });
  kick(device, 0, refuse);
});
const chains: number = device.counters().chain;
// @ts-expect-error: a disk without a size
core.createBlk(memory, {});
// @ts-expect-error: no such counter
device.counters().chains;
console.log(accesses.length > 0, chains);
`;

/** A project with the packed library in its node_modules, as npm would put it there. */
function consumer(): void {
  const npm = ['npm', 'pack', '--ignore-scripts', '--silent', '--pack-destination', folder];
  const { status, text } = run(npm, REPOSITORY);
  assert.is(status, 0, text);
  const home = join(folder, 'node_modules/faraday');
  mkdirSync(home, { recursive: true });
  const tar = ['tar', '-xzf', join(folder, text.trim()), '--strip-components=1', '-C', home];
  assert.equal(run(tar), { status: 0, text: '' });
}

test('what npm packs has types that a strict project takes, and runs in Node', () => {
  consumer();
  const compilerOptions = {
    target: 'es2022',
    module: 'nodenext',
    moduleResolution: 'nodenext',
    strict: true,
    checkJs: true,
    noUncheckedIndexedAccess: true,
    exactOptionalPropertyTypes: true,
    lib: ['es2022', 'dom'],
    types: [],
    outDir: 'out',
  };
  const files = ['consumer.mts', 'block-device.mjs'];
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files }));
  writeFileSync(join(folder, 'consumer.mts'), CONSUMER);
  writeFileSync(join(folder, 'block-device.mjs'), readFileSync(join(REPOSITORY, EXAMPLE)));
  const compiler = join(REPOSITORY, 'node_modules/typescript/bin/tsc');
  assert.equal(run([process.execPath, compiler]), { status: 0, text: '' });
  const wrong = run([process.execPath, 'out/consumer.mjs']);
  assert.match(wrong.text, 'FaradayError: capacityBytes is undefined: give an integer from 0 to');
  const compiled = readFileSync(join(folder, 'out/consumer.mjs'), 'utf8');
  writeFileSync(join(folder, 'right.mjs'), compiled.replace(/^core\.createBlk.*$/m, ''));
  assert.equal(run([process.execPath, 'right.mjs']), { status: 0, text: 'true 0\n' });
});

test('what npm packs is the monitor too', () => {
  const { status, text } = run([process.execPath, 'node_modules/faraday/bin/faraday.js', '-V']);
  assert.match(text, /^\d+\.\d+\.\d+\n$/);
  assert.is(status, 0);
});

test('a bundler for browsers takes the entry that never names Node', async () => {
  const { outputFiles, warnings } = await bundle({
    stdin: { contents: `export { loadCore } from '${NAME}';`, resolveDir: REPOSITORY },
    bundle: true,
    platform: 'browser',
    format: 'esm',
    write: false,
    logLevel: 'silent',
  });
  assert.equal(warnings, []);
  assert.match(outputFiles[0]!.text, 'WebAssembly.compile');
  for (const text of [outputFiles[0]!.text, readFileSync(join(BUILT, 'library.js'), 'utf8')]) {
    assert.not.match(text, /["']node:/);
  }
});

test('both entries export the same, and their classes are the same', async () => {
  const browser = (await import(pathToFileURL(join(BUILT, 'index.js')).href)) as Library;
  assert.equal(Object.keys(browser), Object.keys(library));
  assert.is(browser.Cage, library.Cage);
});

/** What a file of declarations exports without a comment, members of classes and records too. */
function undocumented(path: string): string[] {
  const silent: string[] = [];
  let [block, before] = ['', ''];
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    const exported = /^export (?:declare )?(\w+) (\w+)/.exec(line);
    if (exported) block = /^(class|interface)$/.test(exported[1]!) ? exported[2]! : '';
    // docs/abi.md tells what the core's exports do.
    const member = block !== '' && block !== 'CoreExports' && /^ {4}[a-z]/.test(line);
    const counts = exported || (member && !/^ {4}constructor\(/.test(line));
    // Constants of one group share the comment above the first.
    const grouped = [before, line].every((each) => each.startsWith('export declare const'));
    if (counts && !grouped && !before.trim().endsWith('*/')) silent.push(line.trim());
    before = line;
  }
  return silent;
}

test('every export, and every member of an exported class or record, says what it is', () => {
  const inTesting = readdirSync(join(BUILT, 'types/testing')).filter(
    // What the reference devices are made of is not part of the library.
    (name) => name !== 'index.d.ts' && !name.startsWith('reference-'),
  );
  assert.ok(inTesting.length >= 9, `${inTesting}`);
  const inHost = ['cage', 'access-log', 'device-config', 'guest-memory', 'replay/accesses'];
  const paths = [
    ...inTesting.map((name) => join('testing', name)),
    ...inHost.map((name) => join('host', `${name}.d.ts`)),
  ];
  assert.equal(
    paths.flatMap((path) => undocumented(join(BUILT, 'types', path))),
    [],
  );
});

test('the page about it shows what its code and the example print', () => {
  const page = readFileSync(join(REPOSITORY, 'docs/testing-library.md'), 'utf8');
  assert.ok(page.includes(`\`\`\`text\n${EXAMPLE_ANSWERS}\`\`\``));
  const code = /```js\n(.*?)```/s.exec(page)?.[1] ?? '';
  const printed = /console\.log\(.*\); \/\/ (.*)$/m.exec(code)?.[1];
  const { text } = run([process.execPath, '--input-type=module', '--eval', code], REPOSITORY);
  assert.is(text, `${printed}\n`);
});

// --- Loading ------------------------------------------------------------------------------------

test('it is the release core, which a module and its bytes give as well', async () => {
  assert.ok(coreBytes.equals(readFileSync(join(REPOSITORY, 'build/core.wasm'))));
  const sources = [
    coreBytes,
    new Uint8Array(coreBytes).buffer,
    core.module,
    pathToFileURL(join(BUILT, 'core.wasm')),
    new URL(`data:application/wasm;base64,${coreBytes.toString('base64')}`),
    new Response(coreBytes),
    Promise.resolve(new Response(coreBytes)),
  ];
  for (const source of sources) {
    const device = (await loadCore(source)).createPort('i8042');
    assert.is(device.check(), abi.VALID);
  }
});

/** The failure of a promise, as 'code: message'. */
async function failure(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return error instanceof FaradayError ? `${error.code}: ${error.message}` : `${error}`;
  }
  return 'none';
}

test('a core that cannot be had is one clear line', async () => {
  const gone = new Response('', { status: 404 });
  assert.match(await failure(loadCore(gone)), /^host: the core: .* status 404$/);
  const missing = pathToFileURL(join(folder, 'none.wasm'));
  assert.match(
    await failure(loadCore(missing)),
    /^host: the core: cannot read .*none\.wasm: ENOENT/,
  );
  const unreachable = new URL('http://127.0.0.1:1/core.wasm');
  assert.match(await failure(loadCore(unreachable)), /^host: the core: cannot get http:/);
  assert.match(await failure(loadCore(new Uint8Array(8))), /^CompileError/);
  assert.match(
    await failure(loadCore(pathToFileURL(join(REPOSITORY, 'LICENSE')))),
    /^CompileError/,
  );
  const path = 'core.wasm' as unknown as URL;
  assert.match(await failure(loadCore(path)), /^bad-usage: source is "core.wasm": give a URL, /);
});

test('an option out of its range is named, with what to give', () => {
  const wrong: [object, RegExp][] = [
    [{ capacityBytes: 513 }, /^capacityBytes is 513: give a multiple of 512/],
    [{ capacityBytes: -512 }, /^capacityBytes is -512: /],
    [{ capacityBytes: Number.NaN }, /^capacityBytes is NaN: /],
    [{ queueSize: 12 }, /^queueSize is 12: give a power of two/],
    [{ queueSize: 512 }, /^queueSize is 512: give an integer from 4 to 256/],
    [{ queueCount: 9 }, /^queueCount is 9: /],
    [{ queueSize: 8, segMax: 7 }, /^segMax is 7: give an integer from 1 to 6/],
    [{ blockSize: 1000 }, /^blockSize is 1000: /],
    [{ sizeMax: 511 }, /^sizeMax is 511: /],
    [{ physicalBlockExp: 16 }, /^physicalBlockExp is 16: /],
    [{ alignmentOffset: 256 }, /^alignmentOffset is 256: /],
    [{ minIoSize: 65536 }, /^minIoSize is 65536: /],
    [{ optIoSize: -1 }, /^optIoSize is -1: /],
    [{ discardAlignment: 0 }, /^discardAlignment is 0: /],
    [{ maxDiscardSectors: 0 }, /^maxDiscardSectors is 0: /],
    [{ maxWriteZeroesSectors: 2 ** 32 }, /^maxWriteZeroesSectors is 4294967296: /],
  ];
  const matches = (pattern: RegExp) => (error: Error) =>
    error instanceof FaradayError && error.code === 'bad-usage' && pattern.test(error.message);
  for (const [options, pattern] of wrong) {
    const make = () => core.createBlk(guestMemory(), { capacityBytes: 512, ...options });
    assert.throws(make, matches(pattern), `${pattern}`);
  }
  assert.throws(
    () => core.createRng(guestMemory(), { queueSize: 3 }),
    matches(/^queueSize is 3: /),
  );
  const port = 'toString' as 'serial';
  assert.throws(() => core.createPort(port), matches(/^no port device 'toString': it is one of /));
});

test('every configuration within the ranges is one that the core takes', () => {
  const edges: [object, object][] = [
    [{ capacityBytes: 0 }, { capacityBytes: 2 ** 53 - 512 }],
    [{ queueSize: 4 }, { queueSize: 256 }],
    [{ queueCount: 1 }, { queueCount: 8 }],
    [{ segMax: 1 }, { segMax: 254 }],
    [{ blockSize: 512 }, { blockSize: 4096 }],
    [{ sizeMax: 512 }, { sizeMax: 0xffffffff }],
    [{ physicalBlockExp: 0 }, { physicalBlockExp: 15 }],
    [{ maxDiscardSectors: 1 }, { maxWriteZeroesSectors: 1 }],
    [{ readOnly: true }, { id: 'more than twenty bytes of a name' }],
  ];
  for (const options of edges.flat()) {
    const device = core.createBlk(guestMemory(), { capacityBytes: 512, ...options });
    assert.is(device.check(), abi.VALID);
  }
  for (const queueSize of [1, 256]) core.createRng(guestMemory(), { queueSize });
  for (const name of Object.keys(library.PORT_KINDS)) core.createPort(name as 'serial');
});

// --- What it does -------------------------------------------------------------------------------

const { DATA } = library;
const [STATUS, PAYLOAD] = [DATA + 16, DATA + 512];

/** A disk of 8 sectors, each full of its own number, and what its driver has of it. */
function eightSectors() {
  const memory = guestMemory();
  const disk = Uint8Array.from({ length: 8 * 512 }, (_, index) => index >> 9);
  const device = core.createBlk(memory, { capacityBytes: disk.length });
  const queue = new library.Driver(device, memory).bringUp();
  const offer = (type: number, sector: bigint, ...data: GuestBuffer[]): void => {
    const header = library.blkHeader(memory, DATA, type, sector);
    queue.offer(queue.chain([header, ...data, library.blkStatus(memory, STATUS)]));
  };
  /** Offers a request, has it carried out, and returns the status byte. */
  const submit = (type: number, sector: bigint, ...data: GuestBuffer[]): number => {
    offer(type, sector, ...data);
    library.kick(device, 0, library.memoryDisk(memory, disk));
    return memory.view.getUint8(STATUS);
  };
  return { memory, disk, device, queue, offer, submit };
}

test('a disk in memory reads, writes and zeroes, over several buffers too', () => {
  const { memory, disk, submit } = eightSectors();
  const read = [
    { address: PAYLOAD, length: 512, write: true },
    { address: PAYLOAD + 0x1000, length: 1024, write: true },
  ];
  assert.is(submit(library.BLK_T_IN, 2n, ...read), library.BLK_S_OK);
  const seen = [0, 511, 0x1000, 0x1000 + 512].map((at) => memory.view.getUint8(PAYLOAD + at));
  assert.equal(seen, [2, 2, 3, 4]);
  const write = { address: PAYLOAD, length: 512 };
  assert.is(submit(library.BLK_T_OUT, 7n, write), library.BLK_S_OK);
  assert.equal([disk[6 * 512], disk[7 * 512], disk[8 * 512 - 1]], [6, 2, 2]);
  for (const [type, sector] of [
    [library.BLK_T_DISCARD, 5n],
    [library.BLK_T_WRITE_ZEROES, 6n],
  ] as const) {
    const segment = library.blkSegment(memory, PAYLOAD, sector, 1);
    assert.is(submit(type, 0n, segment), library.BLK_S_OK);
  }
  assert.equal(
    [4, 5, 6, 7].map((sector) => disk[sector * 512 + 511]),
    [4, 0, 0, 2],
  );
  assert.is(submit(library.BLK_T_FLUSH, 0n), library.BLK_S_OK);
});

test('a disk in memory refuses what no honest core asks for', () => {
  const memory = guestMemory();
  const disk = new Uint8Array(1024);
  const execute = library.memoryDisk(memory, disk);
  const honest = { tag: 0, flags: 0, ranges: [], bytes: new Uint8Array(0) };
  const answer = (
    kind: number,
    offset: bigint,
    length: bigint,
    ranges = [{ address: 0n, length: 512 }],
  ) => execute({ ...honest, kind, offset, length, ranges }).result;
  assert.is(answer(abi.REQUEST_KIND_BLK_IN, 512n, 512n), abi.RESULT_OK);
  assert.is(answer(abi.REQUEST_KIND_BLK_IN, 513n, 512n), abi.RESULT_IOERR);
  assert.is(answer(abi.REQUEST_KIND_BLK_OUT, 0n, 1024n), abi.RESULT_IOERR);
  assert.is(answer(abi.REQUEST_KIND_BLK_OUT, 2n ** 64n - 512n, 512n), abi.RESULT_IOERR);
  const outside = [{ address: 0xfff00n, length: 512 }];
  assert.is(answer(abi.REQUEST_KIND_BLK_IN, 0n, 512n, outside), abi.RESULT_IOERR);
  assert.is(answer(abi.REQUEST_KIND_ENTROPY, 0n, 512n), abi.RESULT_UNSUPPORTED);
});

test('a source of entropy fills what the driver gave, in order', () => {
  const memory = guestMemory();
  const device = core.createRng(memory, { queueSize: 8 });
  const queue = new library.Driver(device, memory).bringUp({ queueSize: 8 });
  const buffers = [40, 8].map((length, i) => ({ address: DATA + i * 64, length, write: true }));
  queue.offer(queue.chain(buffers));
  const random = library.randomFrom(1);
  const expected = library.randomFrom(1);
  const source = library.entropySource(memory, (bytes) => {
    for (const index of bytes.keys()) bytes[index] = random(256);
  });
  const { requests } = library.kick(device, 0, source);
  assert.equal(
    requests.map(({ kind }) => library.requestKindName(kind)),
    ['ENTROPY'],
  );
  assert.is(queue.takeUsed()?.length, 48);
  for (const { address, length } of buffers) {
    for (let at = 0; at < length; at++) {
      assert.is(memory.view.getUint8(address + at), expected(256));
    }
  }
  assert.is(
    source({ ...requests[0]!, kind: abi.REQUEST_KIND_BLK_IN }).result,
    abi.RESULT_UNSUPPORTED,
  );
});

test('the log of accesses shows what a request reads and writes, once each', () => {
  const { memory, device, queue, offer } = eightSectors();
  const into = { address: PAYLOAD, length: 512, write: true };
  offer(library.BLK_T_IN, 1n, into);
  const accesses = library.accessesDuring(memory, () => library.kick(device, 0));
  const at = (kind: string, address: number) =>
    accesses.filter((each) => each.kind === kind && each.address === BigInt(address));
  assert.equal(
    at('read', DATA).map(({ length }) => length),
    [16],
    'the header, once',
  );
  for (let index = 0; index < 3; index++) {
    assert.is(at('read', queue.descTable + index * 16).length, 1, `descriptor ${index}`);
  }
  assert.equal(
    at('write', STATUS).map(({ data }) => [...data]),
    [[library.BLK_S_OK]],
  );
  assert.equal(
    at('store16', queue.usedRing + 2).map(({ data }) => [...data]),
    [[1, 0]],
  );
  assert.not.ok(
    accesses.some(({ address }) => address >= BigInt(PAYLOAD)),
    "the payload is the host's",
  );
  assert.ok(accesses.every(({ allowed }) => allowed));
});

test('the log ends with what it watches, failed or not', () => {
  const { memory, device } = eightSectors();
  const fails = () => {
    throw new Error('on purpose');
  };
  assert.throws(() => library.accessesDuring(memory, fails), /^on purpose$/);
  assert.is(memory.log, null);
  const outer = library.accessesDuring(memory, () => {
    assert.ok(library.accessesDuring(memory, () => device.notify(0)).length > 0);
  });
  assert.equal(outer, []);
});

test('effects and kinds have names, and numbers without one are told', () => {
  assert.equal(library.effectNames(abi.EFFECT_IRQ | abi.EFFECT_MORE), ['IRQ', 'MORE']);
  assert.equal(library.effectNames(0), []);
  assert.equal(library.effectNames(0x80004000 | 0), ['0x4000', '0x80000000']);
  assert.is(library.requestKindName(abi.REQUEST_KIND_BLK_WRITE_ZEROES), 'BLK_WRITE_ZEROES');
  assert.is(library.requestKindName(99), '99');
});

test('the fuzzer searches from a corpus, and tells what is wrong with a program', async () => {
  const modules = await loadFuzzer();
  const first = modules.start('block', { seed: 5 });
  first.run(5000);
  assert.ok(first.executions >= 5000);
  assert.equal(first.findings, []);
  const second = modules.start('block', { corpus: first.corpus });
  assert.ok(second.edges >= first.edges, 'the corpus reaches what it came from');
  assert.is(second.examine(first.corpus[0]), null);
  assert.throws(() => second.examine('fly'), /a program begins with 'variant N'/);
  assert.throws(() => second.examine('variant 9\n'), /no variant 9: block has 0 to 3/);
  assert.throws(
    () => modules.start('nothing'),
    (error: Error) => /no fuzz target 'nothing': it is one of transport, ring/.test(error.message),
  );
});

test('the reference devices answer as the core does', async () => {
  const ram = new Uint8Array(4096);
  const reference = new ReferenceDevice(abi.KIND_VIRTIO_RNG, encodeRngConfig(), ram);
  const device = (await loadCore()).createRng(guestMemory(4096));
  for (const register of [0x0, 0x8, 0x34, 0x70]) {
    device.read(register, 4);
    assert.is(reference.read(register, 4).value, device.value());
  }
});

test('a port device answers at its registers', () => {
  const uart = core.createPort('serial');
  const effects = uart.write(0, 1, 0x41);
  assert.equal(library.effectNames(effects), ['OUTPUT']);
  assert.equal(library.effectNames(uart.next(0)), ['REQUEST']);
  assert.equal([...library.parseRecord(uart.record()).bytes], [0x41]);
});

test.run();
