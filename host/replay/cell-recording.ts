// `faraday run --record` with the engine cell: the file, with all that stands before its first
// event. The events are written by the cell itself (shim/record.c), on the descriptor.
import { closeSync, writeSync } from 'node:fs';
import type { MachineImage } from '../boot/image.ts';
import { devicePlans } from '../engine/bus.ts';
import type { FaradayError } from '../errors.ts';
import { recordingHeader } from './header.ts';
import { cutShort, openRecordingFile } from './recorder.ts';

export interface CellRecording {
  fd: number; // at the place of the first event; the caller's to close
  /** The error for one that the cell could not end; `errno` is a name. */
  failed(errno: string): FaradayError;
}

/** Opens and begins the file. Throws a FaradayError where that cannot be. */
export function openCellRecording(
  path: string,
  inputs: readonly string[],
  image: MachineImage,
): CellRecording {
  const fd = openRecordingFile(path, inputs);
  try {
    const header = recordingHeader('cell', image.memoryBytes, devicePlans(image));
    for (let done = 0; done < header.length; ) done += writeSync(fd, header, done);
    return { fd, failed: (errno) => cutShort(path, errno) };
  } catch (error) {
    closeSync(fd);
    throw cutShort(path, (error as NodeJS.ErrnoException).code ?? 'unknown error');
  }
}
