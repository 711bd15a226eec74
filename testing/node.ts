// 'faraday/testing' in Node, where the core is a file: package.json's exports choose this module
// there, and testing/index.ts everywhere else, which therefore never names Node.
import { readFile } from 'node:fs/promises';
import { FaradayError } from '../host/errors.ts';
import {
  type Core,
  type CoreSource,
  type FuzzerModules,
  loadCore as loadAnywhere,
  readFuzzer,
} from './index.ts';

export * from './index.ts';

/** As loadCore() of testing/index.ts; reads what is a file. */
export async function loadCore(source?: CoreSource | PromiseLike<CoreSource>): Promise<Core> {
  const from = (await source) ?? new URL('./core.wasm', import.meta.url);
  if (!(from instanceof URL) || from.protocol !== 'file:') return loadAnywhere(from);
  try {
    return await loadAnywhere(await readFile(from));
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === undefined) throw error;
    throw new FaradayError('host', `the core: cannot read ${from.pathname}: ${message}`);
  }
}

/** As loadFuzzer() of testing/fuzz.ts, from the package's files. */
export function loadFuzzer(): Promise<FuzzerModules> {
  return readFuzzer(async (name) => {
    const url = new URL(`./${name}`, import.meta.url);
    try {
      return new Uint8Array(await readFile(url));
    } catch (error) {
      const { message } = error as Error;
      throw new FaradayError('host', `the fuzzer: cannot read ${url.pathname}: ${message}`);
    }
  });
}
