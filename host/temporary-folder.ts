// Where temporary files go: as node:os has it, whose own function is slow the first time, and every
// start asks once.

/** The folder, without a slash at its end. */
export function temporaryFolder(): string {
  const { TMPDIR, TMP, TEMP } = process.env;
  const folder = TMPDIR || TMP || TEMP || '/tmp';
  return folder.length > 1 && folder.endsWith('/') ? folder.slice(0, -1) : folder;
}
