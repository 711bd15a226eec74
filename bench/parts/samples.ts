// Samples of a benchmark: medians, tables of them against a named reference, and the raw values.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { REPOSITORY } from '../../tools/cache.ts';

const NAME_COLUMNS = 40;
const FIGURE_COLUMNS = 10;

/** Of the numbers among `values`: NaN stands for a sample that failed. */
export function median(values: readonly number[]): number {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

/** The working folder of a benchmark, where its raw samples lie beside. */
export const benchFolder = (name: string): string => join(REPOSITORY, 'build/bench', name);

/** Keeps raw samples as build/bench/NAME.json. */
export function keepRaw(name: string, raw: unknown): void {
  mkdirSync(join(REPOSITORY, 'build/bench'), { recursive: true });
  writeFileSync(`${benchFolder(name)}.json`, `${JSON.stringify(raw, null, 1)}\n`);
}

export function printLine(text = ''): void {
  process.stdout.write(`${text}\n`);
}

/** One row: a name, then figures to the right. */
export function printRow(name: string, figures: readonly string[]): void {
  const columns = figures.map((figure) => figure.padStart(FIGURE_COLUMNS)).join('');
  printLine(`  ${name.padEnd(NAME_COLUMNS)}${columns}`);
}

export interface Contender {
  name: string;
  values: number[];
}

/**
 * The median of the rounds' own ratios: what slows a machine down for a while is in both of them.
 */
export function ratioOf(values: readonly number[], reference: readonly number[]): number {
  return median(values.map((value, round) => value / reference[round]!));
}

/** Medians, extremes and ratios to the reference, one row a contender; by round, NaN: it failed. */
export function printComparison(
  title: string,
  contenders: readonly Contender[],
  reference: Contender,
  digits: number,
): void {
  printLine(title);
  printRow('', ['median', 'least', 'most', 'ratio']);
  for (const { name, values } of contenders) {
    const good = values.filter((value) => !Number.isNaN(value));
    const figures = [median(good), Math.min(...good), Math.max(...good)];
    const ratio = ratioOf(values, reference.values).toFixed(2);
    printRow(name, [...figures.map((figure) => figure.toFixed(digits)), ratio]);
    const lost = values.length - good.length;
    if (lost > 0) printLine(`    ${lost} of ${values.length} guests did not come up`);
  }
  printLine();
}
