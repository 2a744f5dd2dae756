// Owns how scripts run a command of node_modules/.bin and tell whether it passed.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

export const root = join(import.meta.dirname, '..');

/** Runs a command with the repository's binaries first in PATH. Output goes to the terminal. */
export function run(
  command: string,
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): boolean {
  const path = `${join(root, 'node_modules/.bin')}:${process.env.PATH}`;
  const result = spawnSync(command, args, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, PATH: path, ...environment },
  });
  if (result.error) throw result.error;
  return result.status === 0;
}

/** As `run`, returning what it printed. */
export function output(command: string, args: readonly string[]): string {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 64 * 2 ** 20 });
  if (result.error) throw result.error;
  return result.stdout;
}
