// `faraday check`: can this host run guests, line by line, and what to do about each miss.
import { Command } from 'commander';
import { EXIT_HOST, EXIT_OK } from '../errors.ts';
import type { CheckLine } from '../host-check.ts';
import { printOutput } from '../log.ts';

const MARK: Record<CheckLine['state'], string> = {
  ok: 'ok  ',
  note: 'note',
  miss: 'MISS',
};

function render(line: CheckLine): string {
  const fix = line.fix ? `\n       -> ${line.fix}` : '';
  return `${MARK[line.state]}  ${line.subject.padEnd(18)}  ${line.finding}${fix}\n`;
}

export const checkCommand = new Command('check')
  .description('say whether this host can run guests, and what to do about each miss')
  .helpOption('-h, --help', 'show help')
  .option('--json', 'print the lines as JSON')
  .action(async (options: { json?: boolean }) => {
    const { checkHost } = await import('../host-check.ts');
    const lines = checkHost();
    const canRun = lines.every((line) => line.state !== 'miss');
    if (options.json) printOutput(`${JSON.stringify({ canRun, lines }, null, 2)}\n`);
    else {
      printOutput(lines.map(render).join(''));
      printOutput(canRun ? 'This host can run guests.\n' : 'This host cannot run guests.\n');
    }
    process.exitCode = canRun ? EXIT_OK : EXIT_HOST;
  });
