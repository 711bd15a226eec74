// npm run bench -- NAME: runs bench/NAME.ts, whose run() prints its tables. Without a name: the
// list of them.
import { readdirSync, readFileSync } from 'node:fs';
import { FaradayError } from '../host/errors.ts';

const folder = new URL('.', import.meta.url);

function names(): string[] {
  return readdirSync(folder)
    .filter((name) => name.endsWith('.ts') && name !== 'run.ts')
    .map((name) => name.slice(0, -'.ts'.length))
    .sort();
}

/** The question in a benchmark's first comment. */
function question(name: string): string {
  const text = readFileSync(new URL(`${name}.ts`, folder), 'utf8');
  return /^\/\/ (.*\?)/.exec(text)?.[1] ?? '';
}

async function main(name: string | undefined): Promise<number> {
  if (name === undefined) {
    for (const each of names()) {
      process.stdout.write(`${each.padEnd(10)} ${question(each)}\n`);
    }
    return 0;
  }
  if (!names().includes(name)) {
    process.stderr.write(`bench: no '${name}'; there are ${names().join(', ')}\n`);
    return 2;
  }
  // Reading extra certificates would add to the start of every Node that is measured.
  delete process.env.NODE_EXTRA_CA_CERTS;
  try {
    const { run } = (await import(`./${name}.ts`)) as { run: () => void | Promise<void> };
    await run();
    return 0;
  } catch (error) {
    process.stderr.write(`bench: ${(error as Error).message}\n`);
    return error instanceof FaradayError ? error.exitCode : 1;
  }
}

process.exitCode = await main(process.argv[2]);
