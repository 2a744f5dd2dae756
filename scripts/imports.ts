// Owns the import table of design.md section 5: who may import whom, checked from the sources.
import { readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { output } from './run.ts';

/** Module → modules it may import, beside itself and its own subfolders. Longest matching path wins. */
const allowed: Readonly<Record<string, readonly string[]>> = {
  common: [],
  contract: ['common'],
  files: ['common'],
  coordination: ['contract', 'common'],
  'engine/ffi': ['common'],
  'engine/jit/asm': ['engine/ffi', 'common'],
  'engine/jit/kernels': ['engine/jit', 'engine/ffi', 'common'],
  'engine/jit': ['engine/jit/asm', 'engine/jit/kernels', 'engine/ffi', 'common'],
  'engine/weights': ['files', 'engine/ffi', 'engine/jit', 'engine/tensor', 'common'],
  'engine/tensor': ['engine/ffi', 'engine/jit', 'common'],
  'engine/models': ['engine/tensor', 'engine/weights', 'engine/kv', 'files', 'common'],
  'engine/program': [
    'engine/models',
    'engine/tensor',
    'engine/weights',
    'engine/sampler',
    'engine/scheduler',
    'engine/kv',
    'engine/jit',
    'engine/ffi',
    'files',
    'common',
  ],
  'engine/sampler': ['engine/tensor', 'engine/scheduler', 'engine/jit', 'common'],
  'engine/kv': ['engine/ffi', 'common'],
  'engine/scheduler': ['engine/kv', 'common'],
  'engine/transfer': ['engine/scheduler', 'engine/kv', 'contract', 'common'],
  'engine/step': ['engine', 'files', 'contract', 'coordination', 'common'],
  service: ['contract', 'files', 'coordination', 'common'],
  cli: ['common', 'contract', 'files', 'coordination', 'engine', 'service'],
  'index.ts': ['cli', 'common'],
};

/** Folders that must stay pure: no native code, no clock. */
const pure = ['engine/scheduler', 'service/routing', 'service/registry'];
const impure = /\b(Date\.now|performance\.now|setTimeout|setInterval|process\.hrtime)\b|from '(node:|koffi)/;

export interface ImportProblem {
  readonly file: string;
  readonly problem: string;
}

/** Every import of src/ that the table does not allow. */
export function importProblems(): { readonly numFiles: number; readonly problems: readonly ImportProblem[] } {
  const files = output('git', ['ls-files', '-co', '--exclude-standard', 'src'])
    .split('\n')
    .filter((file) => file.endsWith('.ts') && !/\.test\.ts$|\/generated\/|\/testing\//.test(file));
  const problems: ImportProblem[] = [];
  for (const file of files) {
    const text = readFileSync(file, 'utf8');
    const from = moduleOf(file);
    for (const [, specifier] of text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)) {
      const target = normalize(join(dirname(file), specifier ?? ''));
      if (!target.startsWith('src/')) problems.push({ file, problem: `imports ${specifier}, which is outside src/` });
      else if (!mayImport(from, target)) problems.push({ file, problem: `${from} may not import ${target}` });
    }
    const match = impure.exec(text);
    if (pure.some((folder) => file.startsWith(`src/${folder}/`)) && match)
      problems.push({ file, problem: `is pure but uses ${match[0]}` });
  }
  return { numFiles: files.length, problems };
}

function moduleOf(file: string): string {
  const path = file.replace(/^src\//, '');
  const names = Object.keys(allowed).filter((name) => path === name || path.startsWith(`${name}/`));
  return names.sort((a, b) => b.length - a.length)[0] ?? path;
}

function mayImport(from: string, target: string): boolean {
  const path = target.replace(/^src\//, '');
  if (path.startsWith(`${from}/`) && moduleOf(target) === from) return true;
  return (allowed[from] ?? []).some((name) => path.startsWith(`${name}/`));
}
