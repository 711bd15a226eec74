// A block device tested without KVM: `node examples/block-device.mjs` in a checkout that is built.
// A browser runs this very file: examples/block-device.html.
import * as t from 'faraday/testing';

const memory = t.guestMemory(); // 1 MiB of guest RAM
const disk = new Uint8Array(64 * 512);
const core = await t.loadCore(); // the core.wasm that runs guests
const device = core.createBlk(memory, { capacityBytes: disk.length });
const queue = new t.Driver(device, memory).bringUp();
const [HEADER, STATUS, DATA] = [t.DATA, t.DATA + 16, t.DATA + 512];

/** @param {number} type @param {bigint} sector @param {t.GuestBuffer[]} data */
function request(type, sector, ...data) {
  const header = t.blkHeader(memory, HEADER, type, sector);
  queue.offer(queue.chain([header, ...data, t.blkStatus(memory, STATUS)]));
  t.kick(device, 0, t.memoryDisk(memory, disk));
  return memory.view.getUint8(STATUS);
}
/** @param {string} what @param {unknown} got @param {unknown} expected */
function check(what, got, expected) {
  if (got !== expected) throw new Error(`${what}: ${got} instead of ${expected}`);
  console.log(`ok: ${what}: ${got}`);
}
memory.view.setUint32(DATA, 0xcafe);
check('write', request(t.BLK_T_OUT, 3n, { address: DATA, length: 512 }), t.BLK_S_OK);
const into = { address: DATA + 512, length: 512, write: true };
check('read', request(t.BLK_T_IN, 3n, into), t.BLK_S_OK);
check('what was read', memory.view.getUint32(DATA + 512), 0xcafe);
check('past the end', request(t.BLK_T_IN, 64n, into), t.BLK_S_IOERR);
check('no such request', request(99, 0n), t.BLK_S_UNSUPP);
