// Owns how a peer comes onto this machine: commands run in its folder of the cache, resumable, recorded.
import { spawn, spawnSync } from 'node:child_process';
import { createWriteStream, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { finished } from 'node:stream/promises';
import { XllmError } from '../../../common/errors.ts';
import { withCacheLock } from '../../../files/resolve/cache-lock.ts';
import type { SetUpContext } from './peer.ts';

type Command = readonly [file: string, ...args: string[]];

export interface Step {
  readonly name: string;
  isDone(): boolean;
  /** In order, each at low priority in the peer's folder. */
  readonly commands: readonly Command[];
  /** Checks and moves the result into place. */
  after(): void;
}

export interface Recipe {
  /** Names the peer's folder. */
  readonly name: string;
  /** Of everything that is installed: another version is installed anew. */
  readonly version: string;
  /** Programs that the commands need. */
  readonly tools: readonly string[];
  /** Debian packages that bring them. */
  readonly debianPackages: string;
  /** `at`: a path in the peer's folder. */
  steps(at: (...parts: string[]) => string): Step[];
}

export function recipeFolder(recipe: Recipe, cacheFolder: string): string {
  return join(cacheFolder, 'peers', recipe.name);
}

/** Written last, so that its presence means that all is there. */
const RECORD = 'build.json';

function installedVersion(folder: string): string | null {
  const path = join(folder, RECORD);
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version : null;
}

export function isSetUp(recipe: Recipe, cacheFolder: string): boolean {
  return installedVersion(recipeFolder(recipe, cacheFolder)) === recipe.version;
}

/**
 * Does what is not done yet; an interrupted set-up goes on where it stopped. Commands and tool versions are kept in
 * `build.json`, their output in `build.log`. Throws XllmError `native_unavailable` naming what to install.
 */
export async function setUp(recipe: Recipe, context: SetUpContext): Promise<void> {
  const { cacheFolder, signal, log } = context;
  const waiting = (): void => log(`${recipe.name}: waiting for another process that sets it up …`);
  await withCacheLock(cacheFolder, recipe.name, signal, waiting, () => runMissing(recipe, context));
}

async function runMissing(recipe: Recipe, { cacheFolder, signal, log }: SetUpContext): Promise<void> {
  const folder = recipeFolder(recipe, cacheFolder);
  const installed = installedVersion(folder);
  if (installed === recipe.version) return;
  if (installed !== null) rmSync(folder, { recursive: true });
  const tools = requireTools(recipe);
  mkdirSync(folder, { recursive: true });
  const steps = recipe.steps((...parts) => join(folder, ...parts));
  for (const step of steps) {
    if (step.isDone()) continue;
    log(`${recipe.name}: ${step.name} …`);
    for (const command of step.commands) await runQuietly(command, folder, signal);
    step.after();
  }
  const commands = steps.flatMap((step) => step.commands.map((command) => command.join(' ')));
  const record = { name: recipe.name, version: recipe.version, tools, commands };
  writeFileSync(join(folder, RECORD), `${JSON.stringify(record, null, 2)}\n`);
}

export function moveOver(from: string, to: string): void {
  rmSync(to, { recursive: true, force: true });
  renameSync(from, to);
}

function requireTools({ name, tools, debianPackages }: Recipe): Record<string, string> {
  const versions: Record<string, string> = {};
  for (const tool of tools) {
    const { stdout, error } = spawnSync(tool, ['--version'], { encoding: 'utf8' });
    if (error)
      throw new XllmError('native_unavailable', `${name} needs ${tool}: apt-get install ${debianPackages}`, {
        cause: error,
      });
    versions[tool] = stdout.split('\n')[0] ?? '';
  }
  return versions;
}

/** At the lowest priority, with its output appended to build.log. */
async function runQuietly(command: Command, folder: string, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const logPath = join(folder, 'build.log');
  const log = createWriteStream(logPath, { flags: 'a' });
  // A group of its own, so that an interrupt ends what the command starts, too.
  const child = spawn('nice', ['-n', '19', ...command], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  const endGroup = (): void => {
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGTERM');
  };
  child.stdout.pipe(log, { end: false });
  child.stderr.pipe(log, { end: false });
  try {
    const { promise, resolve, reject } = Promise.withResolvers<number | null>();
    child.once('error', reject);
    child.once('close', resolve);
    signal.addEventListener('abort', endGroup, { once: true });
    const code = await promise;
    signal.throwIfAborted();
    if (code !== 0) throw new Error(`${command.join(' ')} failed; see ${logPath}`);
  } finally {
    signal.removeEventListener('abort', endGroup);
    log.end();
    await finished(log); // whoever is told to look there finds all of it
  }
}
