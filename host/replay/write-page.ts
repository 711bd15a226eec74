// The page of `faraday trace --html`.
import type { Recording } from './recording.ts';

export function writePage(_recording: Recording, path: string): string {
  return path;
}
