// Owns where API keys come from: a file with one per line, and XLLM_API_KEY.
import { readFileSync } from 'node:fs';
import { XllmError } from '../common/errors.ts';

/** Keys without blanks and comments. Throws XllmError `usage` when the file cannot be read or holds none. */
export function readApiKeys(
  file: string | undefined,
  environment: Readonly<Record<string, string | undefined>>,
): string[] {
  const keys: string[] = [];
  if (file !== undefined) {
    let text: string;
    try {
      text = readFileSync(file, 'utf8');
    } catch (error) {
      throw new XllmError(
        'usage',
        `--api-key-file ${file} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
    keys.push(
      ...text
        .split('\n')
        .map((line) => line.trim())
        .filter((line) => line !== '' && !line.startsWith('#')),
    );
    // An empty file must not open the server to everybody.
    if (keys.length === 0) throw new XllmError('usage', `--api-key-file ${file} holds no key`);
  }
  const single = environment['XLLM_API_KEY']?.trim();
  if (single) keys.push(single);
  return keys;
}
