// Owns the size check: no source file over 500 lines, and the size of each module printed.
import { readFileSync } from 'node:fs';
import { output } from './run.ts';

const MAX_LINES = 500;

export interface Sizes {
  readonly tooLong: readonly string[];
  /** Module → [source lines, test lines]. */
  readonly modules: ReadonlyMap<string, readonly [number, number]>;
}

export function sizes(): Sizes {
  const files = output('git', ['ls-files', '-co', '--exclude-standard', 'src', 'test', 'scripts', 'bench', 'examples'])
    .split('\n')
    .filter((file) => /\.(ts|js|html|css)$/.test(file) && !/\/generated\/|\/fixtures\//.test(file));
  const tooLong: string[] = [];
  const modules = new Map<string, [number, number]>();
  for (const file of files) {
    const numLines = readFileSync(file, 'utf8').split('\n').length - 1;
    if (numLines > MAX_LINES) tooLong.push(`${file}: ${numLines} lines`);
    const parts = file.split('/');
    const name =
      parts[0] === 'src'
        ? parts.slice(1, parts[1] === 'engine' || parts[1] === 'service' ? 3 : 2).join('/')
        : (parts[0] ?? '');
    const entry = modules.get(name) ?? [0, 0];
    entry[file.endsWith('.test.ts') || parts[0] === 'test' ? 1 : 0] += numLines;
    modules.set(name, entry);
  }
  return { tooLong, modules };
}
