// Owns the entry of threads that prepare weights: code already compiled is taken from the cache that the process uses.
import { enableCompileCache } from 'node:module';
import { workerData } from 'node:worker_threads';
import type { PrepareWorkerData } from './prepare-messages.ts';

// Threads do not inherit the cache, and what is imported before it is enabled does not come from it.
const { compileCacheFolder } = workerData as PrepareWorkerData;
if (compileCacheFolder !== undefined) enableCompileCache(compileCacheFolder);
await import('./prepare-worker-main.ts');
