// Compiles guest/, the init program of boot initramfs files, to build/init.
import { execFileSync } from 'node:child_process';
import { mkdirSync, renameSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

const SOURCES = ['init.c', 'network.c', 'basics.c'].map((name) => `${root}guest/${name}`);

const FLAGS = [
  '-std=gnu11',
  '-Os',
  '-Wall',
  '-Wextra',
  '-Werror',
  '-m64',
  '-static',
  '-nostdlib',
  '-ffreestanding',
  '-fno-pie',
  '-no-pie',
  '-fno-stack-protector', // there is no library to report to
  '-fcf-protection=none',
  '-fno-asynchronous-unwind-tables',
  '-fno-tree-loop-distribute-patterns', // memcpy would become a call of itself
  '-s',
  '-Wl,--build-id=none',
  '-Wl,-z,noseparate-code',
  '-Wl,-z,noexecstack',
];

/** Builds build/init with the C compiler in CC (default gcc). Throws where it fails. */
export function buildGuest(): void {
  mkdirSync(`${root}build`, { recursive: true });
  const temporary = `${root}build/init.${process.pid}`;
  execFileSync(process.env.CC ?? 'gcc', [...FLAGS, '-o', temporary, ...SOURCES], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  renameSync(temporary, `${root}build/init`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) buildGuest();
