// Owns `npm run generate`: every generated file of the repository, from one place.
import { run } from './run.ts';

const ok = run('buf', ['generate']);
process.exitCode = ok ? 0 : 1;
