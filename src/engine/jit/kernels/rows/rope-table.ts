// Owns the table of rotations: one row per position, written by the host, read by the rope kernel.

/** Row: F32 [rotary / 2] cosines, then as many sines, both times the attention factor. */
export const ropeRowBytes = (rotaryDim: number): number => 4 * rotaryDim;

export interface RopeFrequencies {
  readonly base: number;
  /** Elements of a head that rotate. */
  readonly rotaryDim: number;
  /** [rotaryDim / 2] what each frequency base^(-2i / rotaryDim) is divided by; null: nothing. */
  readonly frequencyFactors: Float32Array | null;
  /** Factor on the rotated vectors. */
  readonly attnFactor: number;
}

/** Writes the rows of positions [from, to) of a table that starts with position 0. Angles are computed in F64. */
export function fillRopeTable(table: Float32Array, from: number, to: number, frequencies: RopeFrequencies): void {
  const { base, rotaryDim, frequencyFactors, attnFactor } = frequencies;
  const half = rotaryDim / 2;
  for (let i = 0; i < half; i++) {
    const frequency = base ** (-i / half) / (frequencyFactors?.[i] ?? 1);
    for (let position = from; position < to; position++) {
      const at = position * rotaryDim + i;
      table[at] = Math.cos(position * frequency) * attnFactor;
      table[at + half] = Math.sin(position * frequency) * attnFactor;
    }
  }
}
