// Owns `npm run generate`: every generated file of the repository, from one place.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { renderFlags } from './docs-flags.ts';
import { root, run } from './run.ts';

if (!run('buf', ['generate'])) process.exit(1);
writeFileSync(join(root, 'docs/flags.md'), renderFlags());
