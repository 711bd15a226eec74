// What a target holds of a parser beyond that it neither throws nor hangs.

/** Throws where `holds` is false: the engine counts it as a crash. */
export function must(holds: boolean, otherwise: string): asserts holds {
  if (!holds) throw new Error(otherwise);
}
