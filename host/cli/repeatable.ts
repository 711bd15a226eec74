// An option that may be given several times.

/** The parser of such an option for commander. */
export function collect(value: string, before: string[] = []): string[] {
  return [...before, value];
}
