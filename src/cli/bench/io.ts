// Owns what a bench command needs from the terminal that runs it.

export interface BenchIo {
  /** Results. */
  readonly stdout: { write(text: string): unknown; readonly isTTY?: boolean };
  /** Progress and warnings. */
  readonly stderr: { write(text: string): unknown; readonly isTTY?: boolean };
  /** Aborted at the first Ctrl-C: the command then prints what it has and ends. */
  readonly signal: AbortSignal;
  readonly env: Readonly<Record<string, string | undefined>>;
}
