// Loaded into every test process before its file: uvu counts skipped tests but does not name them.
import { test } from 'uvu';

const { skip } = test;
test.skip = (name) => {
  process.stdout.write(`SKIPPED: ${name}\n`);
  skip(name);
};
