// Owns the file that Linux perf reads to name emitted code.
import { rmSync, writeFileSync } from 'node:fs';
import type { PlacedCode } from './asm/exec-memory.ts';

/** perf looks there and nowhere else, whatever TMPDIR says. */
export const perfMapPath = (): string => `/tmp/perf-${process.pid}.map`;

/** A line `start size name` for each function, numbers in hexadecimal. */
function perfMapText(codes: readonly PlacedCode[]): string {
  const hex = (value: number) => value.toString(16);
  return codes.map(({ code, address }) => `${hex(address)} ${hex(code.bytes.length)} ${code.name}\n`).join('');
}

/** Writes the map of this process; it goes with the process, or when the returned function is called. */
export function writePerfMap(codes: readonly PlacedCode[]): () => void {
  const path = perfMapPath();
  const remove = () => rmSync(path, { force: true });
  // An earlier process of the same number may have left one. A new file: a link that somebody put there is not followed.
  remove();
  writeFileSync(path, perfMapText(codes), { flag: 'wx' });
  process.once('exit', remove);
  return () => {
    process.off('exit', remove);
    remove();
  };
}
