// Owns `npm run check`: types, format, lint, imports, sizes, dead code, generated files; ends with the line that CI reads.
import { importProblems } from './imports.ts';
import { output, run } from './run.ts';
import { sizes } from './sizes.ts';

const checks: Readonly<Record<string, () => boolean>> = {
  types: () => run('tsc', ['--noEmit', '-p', '.']),
  format: () => run('biome', ['format', '.']),
  lint: () => run('oxlint', ['--type-aware', '--deny-warnings']),
  imports: () => {
    const { numFiles, problems } = importProblems();
    for (const { file, problem } of problems) console.error(`${file}: ${problem}`);
    console.log(`${numFiles} files follow the import table`);
    return problems.length === 0 && numFiles > 0;
  },
  sizes: () => {
    const { tooLong, modules } = sizes();
    for (const [name, [source, test]] of [...modules].sort(([a], [b]) => a.localeCompare(b)))
      console.log(`${name.padEnd(24)} ${String(source).padStart(6)} + ${test} test`);
    const total = [...modules]
      .filter(([name]) => !/^(test|scripts|bench|examples)$/.test(name))
      .reduce((sum, [, [source]]) => sum + source, 0);
    console.log(`src/ total ${total} lines`);
    for (const line of tooLong) console.error(`over 500 lines: ${line}`);
    return tooLong.length === 0;
  },
  deadCode: () => run('knip', ['--no-progress']),
  generated: () => {
    const before = output('git', ['status', '--porcelain']);
    if (!run('node', ['scripts/generate.ts'])) return false;
    const changed = output('git', ['status', '--porcelain']) !== before;
    if (changed)
      console.error(`npm run generate changes files: commit its result\n${output('git', ['diff', '--stat'])}`);
    return !changed;
  },
};

const wanted = process.argv.slice(2);
let numPassed = 0;
const failed: string[] = [];
for (const [name, check] of Object.entries(checks)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  console.log(`── ${name}`);
  if (check()) numPassed++;
  else failed.push(name);
}
if (failed.length > 0) console.error(`failed: ${failed.join(', ')}`);
console.log(`${numPassed} passed, ${failed.length} failed, 0 skipped`);
process.exitCode = failed.length === 0 ? 0 : 1;
