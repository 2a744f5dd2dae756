// Owns finding ggml's shared libraries in the npm platform package and picking the CPU variant that fits this machine.
import { existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { XllmError } from '../../common/errors.ts';
import { koffi } from './koffi.ts';

/** The package version whose structures and functions the bindings were written against (ggml 0.25.1). */
const packageVersion = '3.22.1';
const variantPattern = /^libggml-cpu-(?<name>.+)\.so$/;

export type NativeLibrary = ReturnType<typeof koffi.load>;

export interface GgmlLibraries {
  readonly base: NativeLibrary;
  readonly cpu: NativeLibrary;
  /** ggml's name of the CPU variant, such as `haswell` or `zen4`. */
  readonly variant: string;
}

/**
 * Loads libggml-base and one libggml-cpu variant: the named one, or the one that ggml itself scores best.
 * Throws XllmError native_unavailable where the package is missing or nothing in it runs here.
 */
export function loadGgmlLibraries(variant?: string): GgmlLibraries {
  const folder = findLibraryFolder();
  const base = load(join(folder, 'libggml-base.so'));
  const chosen = variant ?? bestVariant(folder);
  return { base, cpu: load(join(folder, `libggml-cpu-${chosen}.so`)), variant: chosen };
}

function findLibraryFolder(): string {
  const target = `${process.platform}-${process.arch}`;
  const name = `@node-llama-cpp/${target}`;
  let entry: string;
  try {
    entry = createRequire(import.meta.url).resolve(name);
  } catch (cause) {
    throw unavailable(`package ${name} with ggml's libraries is not installed`, name, cause);
  }
  const folder = join(dirname(entry), '..', 'bins', target);
  if (!existsSync(join(folder, 'libggml-base.so'))) throw unavailable(`${folder} holds no libggml-base.so`, name);
  return folder;
}

function unavailable(what: string, packageName: string, cause?: unknown): XllmError {
  return new XllmError(
    'native_unavailable',
    `${what}; install it with: npm install ${packageName}@${packageVersion} (npm leaves optional dependencies out under --omit=optional)`,
    { cause },
  );
}

function load(path: string): NativeLibrary {
  try {
    return koffi.load(path);
  } catch (cause) {
    throw new XllmError('native_unavailable', `cannot load ${path}: ${(cause as Error).message}`, { cause });
  }
}

/** Each variant exports a score: 0 where this CPU lacks one of its instructions, more for more of them. */
function bestVariant(folder: string): string {
  let best = { name: '', score: 0 };
  for (const file of readdirSync(folder).sort()) {
    const name = variantPattern.exec(file)?.groups?.['name'];
    if (name === undefined) continue;
    const library = load(join(folder, file));
    const score = Number(library.func('int ggml_backend_score()')());
    library.unload();
    if (score > best.score) best = { name, score };
  }
  if (best.score === 0) throw new XllmError('native_unavailable', `no ggml CPU library in ${folder} runs on this CPU`);
  return best.name;
}
