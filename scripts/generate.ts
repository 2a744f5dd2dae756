// Owns `npm run generate`: every generated file of the repository, from one place.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { renderErrors } from './docs-errors.ts';
import { renderFlags } from './docs-flags.ts';
import { readResults, renderNumbers } from './docs-numbers.ts';
import { root, run } from './run.ts';

if (!run('buf', ['generate'])) process.exit(1);
writeFileSync(join(root, 'docs/flags.md'), renderFlags());
writeFileSync(join(root, 'docs/errors.md'), renderErrors());
writeFileSync(join(root, 'docs/numbers.md'), renderNumbers(readResults()));
