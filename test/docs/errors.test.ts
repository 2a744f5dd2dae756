// The catalogue of errors and its page say the same.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { renderErrors } from '../../scripts/docs-errors.ts';
import { errorCatalogue } from '../../src/common/errors.ts';

const page = readFileSync(join(import.meta.dirname, '../../docs/errors.md'), 'utf8');

test('docs/errors.md is what `npm run generate` writes', () => {
  expect(page).toBe(renderErrors());
});

test('every code is documented, and nothing else', () => {
  const documented = [...page.matchAll(/^\| `([a-z_]+)` \|/gm)].map(([, code]) => code);
  expect(new Set(documented)).toEqual(new Set(Object.keys(errorCatalogue)));
  expect(documented).toHaveLength(Object.keys(errorCatalogue).length);
});
