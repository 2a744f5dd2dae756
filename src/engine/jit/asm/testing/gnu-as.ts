// Owns the outside judge of tests: GNU as.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

function run(command: string, args: readonly string[], cwd: string): void {
  try {
    execFileSync(command, args, { cwd, stdio: ['ignore', 'ignore', 'pipe'] });
  } catch (error) {
    const missing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    throw missing ? new Error(`${command} is missing: apt-get install binutils`) : error;
  }
}

/** Bytes that GNU as makes of Intel-syntax text. Throws with its messages, or naming the package that is missing. */
export function gnuAssemble(text: string): Uint8Array {
  const folder = mkdtempSync(join(tmpdir(), 'xllm-as-'));
  try {
    writeFileSync(join(folder, 'in.s'), `${text}\n`);
    run('as', ['--64', '-msyntax=intel', '-mnaked-reg', '-o', 'out.o', 'in.s'], folder);
    run('objcopy', ['-O', 'binary', '-j', '.text', 'out.o', 'out.bin'], folder);
    return new Uint8Array(readFileSync(join(folder, 'out.bin')));
  } finally {
    rmSync(folder, { recursive: true });
  }
}
