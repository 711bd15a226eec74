// The page of `faraday trace --html`, in a real browser: what it shows, what a click and keys do,
// and that it asks for nothing.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { KIND_VIRTIO_RNG } from '../assembly/abi.ts';
import { encodeRngConfig } from '../host/device-config.ts';
import { ticks } from '../host/page/draw.ts';
import { browserTest, type Page, type WindowOptions, withPage } from './browser.ts';
import { RecordedMachine, recordBoot } from './recordings.ts';

const FARADAY = new URL('../bin/faraday.js', import.meta.url).pathname;
const REQUESTS = 120; // more than one page of the table
const SLOWEST = REQUESTS - 1; // by index

const folder = mkdtempSync(join(tmpdir(), 'faraday-trace-page-'));
test.after(() => rmSync(folder, { recursive: true }));
const at = (name: string) => join(folder, name);

/** Makes the page of a recording with the command. */
function makePage(recording: string, page: string): void {
  const args = [FARADAY, 'trace', recording, '--html', page];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  assert.equal([status, stderr], [0, '']);
  assert.match(stdout, /^.*: \d+ events; open it in a browser.*\n$/);
}

const recorded = recordBoot(at('boot.rec'), REQUESTS);
makePage(recorded, at('boot.html'));

/** Opens a page that must neither fail nor ask for anything, and waits until it is drawn. */
async function withTrace<T>(
  file: string,
  use: (page: Page) => Promise<T>,
  options?: WindowOptions,
): Promise<T> {
  const url = pathToFileURL(file).href;
  return withPage(
    url,
    async (page) => {
      await page.waitFor(`document.querySelectorAll('#event-rows tr').length > 0`);
      const result = await use(page);
      assert.equal(page.errors, []);
      assert.equal(
        page.requests.filter((request) => !request.startsWith('data:')),
        [url],
      );
      return result;
    },
    options,
  );
}

const texts = (page: Page, selector: string) =>
  page.evaluate<string[]>(
    `[...document.querySelectorAll(${JSON.stringify(selector)})].map((each) => each.textContent)`,
  );

const text = async (page: Page, selector: string) => (await texts(page, selector)).join('\n');

/** How many pixels of a canvas are not empty. */
const inked = (page: Page, selector: string) =>
  page.evaluate<number>(`(() => {
    const canvas = document.querySelector(${JSON.stringify(selector)});
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let at = 3; at < data.length; at += 4) if (data[at] > 0) count++;
    return count;
  })()`);

browserTest('the page shows the recording: facts, phases, lanes, charts, tables', () =>
  withTrace(at('boot.html'), async (page) => {
    assert.is(await page.evaluate('document.title'), 'boot.rec - faraday trace');
    assert.match(
      await text(page, '#facts'),
      /enginev8guest memory1 MiBdevices5events657requests120/,
    );
    assert.equal(await texts(page, '#phases .phase-name'), [
      'first console output',
      'disk:rootfs driven',
      'first block request',
      'user space',
      'power off',
    ]);
    const devices = ['serial', 'rtc', 'acpi-pm', 'boot-timer', 'disk:rootfs'];
    assert.equal(await texts(page, '.lane .label'), devices);
    for (const device of devices) {
      assert.ok((await inked(page, `.lane[data-device="${device}"] canvas`)) > 10, device);
    }
    for (const chart of ['#exits', '#axis', '#histogram', '#latency']) {
      assert.ok((await inked(page, chart)) > 100, chart);
    }
    assert.match(await text(page, '#latency-summary'), /^120 requests: median .*slowest 40 ms$/);
    assert.is(await text(page, '#request-count'), '1 to 50 of 120');
    assert.match(await text(page, '#event-rows tr:first-child'), /^11\.550serialwriteTHR = 0x4c/);
    assert.is(await text(page, '#note'), '');
  }),
);

const SLOWEST_ROW = `#request-rows tr[data-request="${SLOWEST}"]`;

browserTest("a click on a request shows its whole life, and so does one on its lane's bar", () =>
  withTrace(at('boot.html'), async (page) => {
    await page.evaluate(`(() => {
      const order = document.querySelector('#request-order');
      order.value = 'slowest';
      order.dispatchEvent(new Event('change'));
    })()`);
    assert.is(
      await page.evaluate(`document.querySelector('#request-rows tr').dataset.request`),
      String(SLOWEST),
    );
    await page.click(SLOWEST_ROW);
    await page.waitFor(`document.querySelector('.life-title')`);
    assert.match(await text(page, '#life'), /BLK_IN of 512 B on disk:rootfs.*40 ms/s);
    assert.equal(await texts(page, '.steps strong'), [
      'Doorbell, chain, request',
      'Completion, used ring',
      'Interrupt seen',
      'Acknowledged',
    ]);
    const life = await text(page, '.steps');
    for (const part of [
      /QueueNotify = 0; BLK_IN 512 bytes at/,
      /avail\.ring\[7\] = \d+/,
      /desc\[\d+\] = 0x41000, 512 bytes, NEXT WRITE/,
      /header = IN, sector 55/,
      /status = OK/,
      /used\.ring\[7\] = head \d+, 513 bytes/,
      /interrupt raised/,
    ]) {
      assert.match(life, part);
    }
    assert.is(await page.evaluate(`document.querySelector('${SLOWEST_ROW}').ariaSelected`), 'true');
    assert.match(await text(page, '#event-rows tr:first-child .what'), /QueueNotify/);
    // The slowest request is a fifth of the run, so its bar is easy to hit, at two thirds of a
    // lane.
    const [x, y] = await page.evaluate<[number, number]>(`(() => {
      const canvas = document.querySelector('.lane[data-device="disk:rootfs"] canvas');
      canvas.scrollIntoView({ block: 'center' });
      const { left, top, width, height } = canvas.getBoundingClientRect();
      return [left + width / 2, top + height * 0.7];
    })()`);
    await page.clickAt(x, y);
    await page.waitFor(`!document.querySelector('.life-title + p').textContent.includes('40 ms')`);
  }),
);

browserTest('keys zoom and move the timeline, and choose a request', () =>
  withTrace(at('boot.html'), async (page) => {
    const range = () => text(page, '#range');
    const whole = await range();
    await page.evaluate(`document.querySelector('#plot').focus()`);
    await page.press('ArrowUp');
    await page.waitFor(`document.querySelector('#range').textContent !== ${JSON.stringify(whole)}`);
    const zoomed = await range();
    await page.press('ArrowRight');
    await page.waitFor(
      `document.querySelector('#range').textContent !== ${JSON.stringify(zoomed)}`,
    );
    assert.not.match(await text(page, '#request-count'), /of 120$/);
    await page.press('Home');
    await page.waitFor(`document.querySelector('#range').textContent === ${JSON.stringify(whole)}`);
    await page.evaluate(`document.querySelector('#request-rows tr').focus()`);
    await page.press('ArrowDown');
    await page.press('Enter');
    await page.waitFor(`document.querySelector('.life-title')`);
    const selected = '#request-rows tr[aria-selected="true"]';
    assert.is(await page.evaluate(`document.querySelector('${selected}').dataset.request`), '1');
  }),
);

for (const [name, options] of Object.entries({
  'a narrow window': { width: 375, height: 800 },
  'a dark one': { width: 1280, height: 900, dark: true },
})) {
  browserTest(`${name} is not scrolled sideways, and text stands out from what is behind it`, () =>
    withTrace(
      at('boot.html'),
      async (page) => {
        // A window itself is never as narrow as a telephone.
        const metrics = { ...options, deviceScaleFactor: 1, mobile: false };
        await page.send('Emulation.setDeviceMetricsOverride', metrics);
        assert.is(await page.evaluate('innerWidth'), options.width);
        assert.ok(await page.evaluate('document.documentElement.scrollWidth <= innerWidth'));
        const [front, back] = await page.evaluate<number[]>(`['color', 'backgroundColor'].map(
          (which) => getComputedStyle(document.body)[which].match(/\\d+/g).slice(0, 3)
            .reduce((sum, each) => sum + Number(each), 0))`);
        assert.is(back < 200, 'dark' in options, `${back}`);
        assert.ok(Math.abs(front - back) > 400, `${front} on ${back}`);
      },
      options,
    ),
  );
}

browserTest('a recording that was cut is shown as far as it goes, and said to be cut', () => {
  recordBoot(at('long.rec'), 2000);
  const bytes = readFileSync(at('long.rec'));
  writeFileSync(at('cut.rec'), bytes.subarray(0, bytes.length - 1));
  makePage(at('cut.rec'), at('cut.html'));
  return withTrace(at('cut.html'), async (page) => {
    assert.match(await text(page, '#note'), /^recording '.*cut\.rec' ends early/);
    assert.match(await text(page, '#facts'), /events[\d,]{5,}requests1,/);
  });
});

browserTest('a recording with a damaged event in a whole block is shown up to there', () => {
  const machine = new RecordedMachine(at('damaged.rec'));
  const rng = machine.add('rng', KIND_VIRTIO_RNG, encodeRngConfig())();
  for (let count = 0; count < 3; count++) rng.read(0, 4);
  machine.recorder.begin(0x77, 0); // no known call
  machine.recorder.finish();
  makePage(at('damaged.rec'), at('damaged.html'));
  return withTrace(at('damaged.html'), async (page) => {
    assert.match(await text(page, '#note'), /is damaged: no known call in event 4$/);
    assert.is((await texts(page, '#event-rows tr')).length, 3);
  });
});

test('the marks of an axis are few and round, also of times past what numbers tell apart', () => {
  assert.equal(ticks(0, 100, 5), [0, 20, 40, 60, 80, 100]);
  assert.equal(ticks(3, 9, 3), [4, 6, 8]);
  assert.equal(ticks(7, 7, 3), [7]);
  const end = 2 ** 56;
  assert.ok(ticks(end - 20, end, 10).length <= 11);
});

browserTest('names of a hostile recording are text, not markup', () => {
  const file = 'x<!--<script>"&<b>.rec';
  const device = '</script><b onclick="x()"><img src=x>';
  const machine = new RecordedMachine(at(file));
  machine.add(device, KIND_VIRTIO_RNG, encodeRngConfig())().read(0, 4);
  machine.recorder.finish();
  makePage(at(file), at('hostile.html'));
  return withTrace(at('hostile.html'), async (page) => {
    assert.is(await text(page, '#name'), file);
    assert.is(await text(page, '.lane .label'), device);
    assert.is(await page.evaluate(`document.querySelectorAll('b, img').length`), 0);
  });
});

test('the page is one file of its owner alone, and names nothing outside of itself', () => {
  assert.is(statSync(at('boot.html')).mode & 0o777, 0o600);
  const page = readFileSync(at('boot.html'), 'latin1');
  const addresses = page.match(/(?:src|href)=["']?[^"'\s>]+|https?:\/\/[^"'\s)]+|@import/g) ?? [];
  assert.equal(addresses, ['href="data:,']);
});

test.run();
