// Owns temporary folders of tests: made per test file, gone after it.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';

/** Call at the top of a test file: the folder is removed when its tests are done. */
export function useTempFolder(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `xllm-${name}-`));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Writes `bytes` as `folder/name` and returns the path. */
export function putFile(folder: string, name: string, bytes: Uint8Array | string): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}
