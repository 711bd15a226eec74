// Samples of a benchmark: medians, tables of them against a named reference, and the raw values.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { REPOSITORY } from '../../tools/cache.ts';

const NAME_COLUMNS = 40;
const FIGURE_COLUMNS = 10;

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
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

/** Medians, extremes and the ratio of the medians to the reference's, one row a contender. */
export function printComparison(
  title: string,
  contenders: readonly Contender[],
  reference: Contender,
  digits: number,
): void {
  printLine(title);
  printRow('', ['median', 'least', 'most', 'ratio']);
  for (const { name, values } of contenders) {
    const figures = [median(values), Math.min(...values), Math.max(...values)];
    const ratio = (median(values) / median(reference.values)).toFixed(2);
    printRow(name, [...figures.map((figure) => figure.toFixed(digits)), ratio]);
  }
  printLine();
}
