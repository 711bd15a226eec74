// The time since this process began, in milliseconds. Not performance.now(): Node loads a module of
// its own for that, which costs more than a millisecond of every start.

export function nowMs(): number {
  return process.uptime() * 1000;
}
