// A real browser for tests: chromium without a window, in a profile of its own, spoken to by the
// DevTools protocol. Messages are JSON, each ended by a zero byte, on descriptor 3 (to the browser)
// and 4 (from it): no port is opened, and no package is needed.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { test } from 'uvu';
import { findCommand } from '../tools/packages.mjs';

const ANSWER_LIMIT_MS = 60_000; // of one command: a hung browser must not hang the suite
const WAIT_LIMIT_MS = 30_000; // for a page to become what is waited for
const POLL_MS = 20;

type Params = Record<string, unknown>;
type Listener = (method: string, params: Params) => void;

interface Message {
  id?: number;
  method?: string;
  params?: Params;
  result?: Params;
  error?: { message: string };
}

interface Waiting {
  resolve: (result: Params) => void;
  reject: (error: Error) => void;
}

/** The browser's end of the protocol. */
class Connection {
  private readonly to: Writable;
  private readonly waiting = new Map<number, Waiting>();
  private readonly listener: Listener;
  private session: string | undefined;
  private lastId = 0;
  private text = '';

  constructor(child: ChildProcess, listener: Listener) {
    this.listener = listener;
    this.to = child.stdio[3] as Writable;
    this.to.on('error', () => {}); // it died: its exit tells
    const from = child.stdio[4] as Readable;
    from.setEncoding('utf8').on('data', (text: string) => this.receive(text));
    child.once('exit', (status, signal) => {
      this.failAll(new Error(`the browser ended: ${signal ?? `status ${status}`}`));
    });
    child.once('error', (error) => this.failAll(error));
  }

  /** Commands go to this target's session from here on. */
  use(session: string): void {
    this.session = session;
  }

  send(method: string, params: Params = {}): Promise<Params> {
    const id = ++this.lastId;
    const message = { id, method, params, sessionId: this.session };
    return new Promise((resolve, reject) => {
      const limit = setTimeout(() => {
        this.waiting.delete(id);
        reject(new Error(`the browser does not answer ${method}`));
      }, ANSWER_LIMIT_MS);
      const end =
        <T>(settle: (value: T) => void) =>
        (value: T) => {
          clearTimeout(limit);
          settle(value);
        };
      this.waiting.set(id, { resolve: end(resolve), reject: end(reject) });
      this.to.write(`${JSON.stringify(message)}\0`);
    });
  }

  private receive(text: string): void {
    const parts = (this.text + text).split('\0');
    this.text = parts.pop()!;
    for (const part of parts) this.take(JSON.parse(part) as Message);
  }

  private take({ id, method, params, result, error }: Message): void {
    if (id === undefined) return this.listener(method!, params ?? {});
    const waiting = this.waiting.get(id);
    this.waiting.delete(id);
    if (error) waiting?.reject(new Error(error.message));
    else waiting?.resolve(result ?? {});
  }

  private failAll(error: Error): void {
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }
}

interface RemoteValue {
  value?: unknown;
  description?: string;
}

/** One page, loaded. */
export class Page {
  /** Uncaught exceptions, console.error() and what the browser itself complains of. */
  readonly errors: string[] = [];
  /** The address of everything that was asked for, the page itself first. */
  readonly requests: string[] = [];
  private readonly connection: Connection;

  constructor(child: ChildProcess) {
    this.connection = new Connection(child, (method, params) => this.heard(method, params));
  }

  /** Opens the address and waits for its load event. */
  async open(url: string): Promise<void> {
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank' });
    const attached = await this.send('Target.attachToTarget', { targetId, flatten: true });
    this.connection.use(attached.sessionId as string);
    for (const domain of ['Runtime', 'Log', 'Network', 'Page']) await this.send(`${domain}.enable`);
    const { errorText } = await this.send('Page.navigate', { url });
    if (errorText) throw new Error(`${url}: ${errorText}`);
    await this.waitFor(`location.href !== 'about:blank' && document.readyState === 'complete'`);
  }

  /** Any command of the protocol. */
  send(method: string, params: Params = {}): Promise<Params> {
    return this.connection.send(method, params);
  }

  /** The value of an expression, or what its promise resolves to, as JSON carries it. */
  async evaluate<T = unknown>(expression: string): Promise<T> {
    const options = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await this.send('Runtime.evaluate', options);
    if (exceptionDetails) throw new Error(describeException(exceptionDetails as Params));
    return (result as RemoteValue).value as T;
  }

  /** Waits until an expression is true; an error once it was not for a long while. */
  async waitFor(expression: string): Promise<void> {
    const end = Date.now() + WAIT_LIMIT_MS;
    while (!(await this.evaluate(`Boolean(${expression})`))) {
      if (Date.now() > end) throw new Error(`this never became true: ${expression}`);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** Clicks in the middle of the first element that matches, with the mouse. */
  async click(selector: string): Promise<void> {
    const found = await this.evaluate<{ x: number; y: number } | null>(`(() => {
      const element = document.querySelector(${JSON.stringify(selector)});
      if (!element) return null;
      element.scrollIntoView({ block: 'center', behavior: 'instant' });
      const { left, top, width, height } = element.getBoundingClientRect();
      return { x: left + width / 2, y: top + height / 2 };
    })()`);
    if (!found) throw new Error(`nothing to click: ${selector}`);
    await this.clickAt(found.x, found.y);
  }

  /** Clicks at a place of the window, in CSS pixels. */
  async clickAt(x: number, y: number): Promise<void> {
    for (const type of ['mouseMoved', 'mousePressed', 'mouseReleased']) {
      const button = type === 'mouseMoved' ? 'none' : 'left';
      await this.send('Input.dispatchMouseEvent', { type, x, y, button, clickCount: 1 });
    }
  }

  /** Presses a key by its name (KeyboardEvent.key), such as 'Tab' or 'ArrowRight'. */
  async press(key: string): Promise<void> {
    const text = key === 'Enter' ? '\r' : key.length === 1 ? key : undefined;
    const virtual = KEY_CODES[key] ?? key.toUpperCase().charCodeAt(0);
    const event = { key, code: key, text, windowsVirtualKeyCode: virtual };
    await this.send('Input.dispatchKeyEvent', { type: 'keyDown', ...event });
    await this.send('Input.dispatchKeyEvent', { type: 'keyUp', ...event, text: undefined });
  }

  /** The window's content as a PNG. */
  async screenshot(): Promise<Uint8Array> {
    const { data } = await this.send('Page.captureScreenshot', { format: 'png' });
    return Buffer.from(data as string, 'base64');
  }

  private heard(method: string, params: Params): void {
    if (method === 'Runtime.exceptionThrown') {
      this.errors.push(describeException(params.exceptionDetails as Params));
    } else if (method === 'Runtime.consoleAPICalled' && params.type === 'error') {
      const values = params.args as RemoteValue[];
      this.errors.push(values.map((each) => each.value ?? each.description).join(' '));
    } else if (method === 'Log.entryAdded') {
      const { level, text } = params.entry as { level: string; text: string };
      if (level === 'error') this.errors.push(text);
    } else if (method === 'Network.requestWillBeSent') {
      this.requests.push((params.request as { url: string }).url);
    }
  }
}

const KEY_CODES: Record<string, number> = {
  Tab: 9,
  Enter: 13,
  Escape: 27,
  End: 35,
  Home: 36,
  ArrowLeft: 37,
  ArrowUp: 38,
  ArrowRight: 39,
  ArrowDown: 40,
};

function describeException({ text, exception }: Params): string {
  return (exception as RemoteValue | undefined)?.description ?? String(text);
}

export interface WindowOptions {
  width?: number; // of the window, in pixels; 1280
  height?: number; // 900
  dark?: boolean; // what the page hears of prefers-color-scheme
}

function flagsFor(profile: string, { width = 1280, height = 900, dark }: WindowOptions): string[] {
  return [
    '--headless',
    '--no-sandbox', // root has none, and what is opened is our own
    '--remote-debugging-pipe',
    `--user-data-dir=${profile}`,
    `--window-size=${width},${height}`,
    '--hide-scrollbars',
    '--no-first-run',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-extensions',
    ...(dark ? ['--force-dark-mode', '--blink-settings=preferredColorScheme=0'] : []),
  ];
}

/** Ends the browser and all its processes. */
async function end(child: ChildProcess): Promise<void> {
  const ended = new Promise((resolve) => child.once('exit', resolve));
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    return; // it ended a moment ago
  }
  await ended;
}

/**
 * Opens `url` in a browser of its own, gives the page to `use` and ends the browser, whatever comes
 * of it. Throws where there is no chromium.
 */
export async function withPage<T>(
  url: string,
  use: (page: Page) => Promise<T>,
  options: WindowOptions = {},
): Promise<T> {
  const program = findCommand('chromium');
  if (!program) throw new Error('chromium is not installed');
  const profile = mkdtempSync(join(tmpdir(), 'faraday-browser-'));
  const child = spawn(program, flagsFor(profile, options), {
    detached: true, // a process group of its own, to be ended as one
    env: { ...process.env, HOME: profile },
    stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
  });
  try {
    const page = new Page(child);
    await page.open(url);
    return await use(page);
  } finally {
    await end(child);
    rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
  }
}

/** A test in a browser; skipped, loudly, where there is none. */
export function browserTest(name: string, body: () => Promise<void>): void {
  if (findCommand('chromium')) test(name, body);
  else test.skip(`${name}: chromium is not installed`, body);
}
