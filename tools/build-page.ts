// The page of `faraday trace --html`: host/page in one file, with places for what it shows.
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { build as bundle } from 'esbuild';
import { FaradayError } from '../host/errors.ts';
import { REPOSITORY } from './cache.ts';
import { STEPS } from './stamps.mjs';

const source = join(REPOSITORY, 'host/page');
const target = join(REPOSITORY, STEPS.page.output);

/** A file for browsers, bundled and shortened. A module of Node's in it is an error. */
async function bundled(name: string): Promise<string> {
  try {
    const { outputFiles, warnings } = await bundle({
      entryPoints: [join(source, name)],
      bundle: true,
      write: false,
      minify: true,
      platform: 'browser',
      format: 'iife',
      target: 'es2022',
      charset: 'ascii',
      logLevel: 'silent',
    });
    if (warnings.length > 0) throw new Error(warnings.map(({ text }) => text).join('\n'));
    return outputFiles[0].text.trim();
  } catch (error) {
    throw new FaradayError('internal', `the page does not bundle:\n${(error as Error).message}`);
  }
}

const DATA = `<script type="application/json" id="about">@ABOUT@</script>
<script type="text/plain" id="recording">@RECORDING@</script>`;

/** Makes build/trace.html, whose @ABOUT@ and @RECORDING@ host/trace-page.ts fills in. */
export async function buildPage(): Promise<void> {
  const parts: Record<string, string> = {
    '<!-- STYLE -->': `<style>\n${await bundled('page.css')}\n</style>`,
    '<!-- SCRIPTS -->': `${DATA}\n<script>\n${await bundled('main.ts')}\n</script>`,
  };
  const template = readFileSync(join(source, 'page.html'), 'utf8');
  const page = template.replace(/<!-- (STYLE|SCRIPTS) -->/g, (place) => parts[place]);
  mkdirSync(dirname(target), { recursive: true });
  writeFileSync(`${target}.${process.pid}`, page);
  renameSync(`${target}.${process.pid}`, target);
}
