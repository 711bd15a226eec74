// The process of one worker (fuzz/worker.ts): takes an order and others' programs from its parent.
import type { Program } from './program.ts';
import { type WorkerOrder, work } from './worker.ts';

const others: Program[] = [];

// An interrupt at the terminal reaches every process of the search: the parent ends them, and a
// parent that is gone ends them too.
process.on('SIGINT', () => {});
process.once('disconnect', () => process.exit());

process.on('message', (message: { order?: WorkerOrder; programs?: Program[] }) => {
  if (message.programs) others.push(...message.programs);
  if (!message.order) return;
  const tell = (news: unknown): void => {
    process.send?.(news);
  };
  work(message.order, tell, others).then(
    () => process.disconnect(),
    (error: Error) => {
      process.stderr.write(`fuzz: ${error.stack}\n`);
      process.exit(1);
    },
  );
});
