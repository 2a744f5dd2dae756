// Owns the entry of text worker threads: code already compiled is taken from the cache that the process uses.
import { enableCompileCache } from 'node:module';
import { workerData } from 'node:worker_threads';
import type { TextWorkerData } from './worker-messages.ts';

// Threads do not inherit the cache, and what is imported before it is enabled does not come from it.
const { compileCacheFolder } = workerData as TextWorkerData;
if (compileCacheFolder !== undefined) enableCompileCache(compileCacheFolder);
await import('./text-worker-main.ts');
