// Owns `npm test` (reduced counts) and `npm run test:full`: runs vitest and ends with the line that CI reads.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from './run.ts';

const args = process.argv.slice(2);
const isFull = args.includes('--full');
const folder = mkdtempSync(join(tmpdir(), 'xllm-test-'));
const report = join(folder, 'report.json');
const passed = run(
  'vitest',
  [
    'run',
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
    ...args.filter((arg) => arg !== '--full'),
  ],
  isFull ? { XLLM_TEST_FULL: '1' } : {},
);
const counts = JSON.parse(readFileSync(report, 'utf8')) as {
  numPassedTests: number;
  numFailedTests: number;
  numPendingTests: number;
  numFailedTestSuites: number;
};
rmSync(folder, { recursive: true });
// A suite that fails to load has no failed test in it; it still counts as one failure.
const numFailed = Math.max(counts.numFailedTests, passed ? 0 : 1);
console.log(`${counts.numPassedTests} passed, ${numFailed} failed, ${counts.numPendingTests} skipped`);
process.exitCode = passed ? 0 : 1;
