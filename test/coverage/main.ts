// npm run coverage: measures which edges of the core its tests and the fuzz corpus reach, and
// writes docs/coverage.md. The status is 1 where test/coverage.test.ts would fail.
import { FaradayError } from '../../host/errors.ts';
import { measure } from './measure.ts';
import { problems, summary, writePage } from './page.ts';

try {
  const measured = await measure();
  writePage(measured);
  process.stdout.write(`${[summary(measured), ...problems(measured)].join('\n')}\n`);
  if (problems(measured).length > 0) process.exitCode = 1;
} catch (error) {
  if (!(error instanceof FaradayError)) throw error;
  process.stderr.write(`coverage: ${error.message}\n`);
  process.exitCode = error.exitCode;
}
