// Loads a model through a cache in a process of its own: `node load-weights-child.ts MODEL CACHE MEMORY`; prints what that took.
import { readFileSync } from 'node:fs';
import { openGgml } from '../../src/engine/ffi/ggml.ts';
import { loadModel } from '../../src/engine/models/model.ts';
import { readModelConfig } from '../../src/engine/models/registry.ts';
import { forProducts } from '../../src/engine/tensor/packing.ts';
import type { WeightsMemory } from '../../src/engine/weights/cache/place-weights.ts';
import { openWeights } from '../../src/files/open-weights.ts';

const [path = '', folder = '', memory = 'auto'] = process.argv.slice(2);
const residentBytes = (field: string) =>
  1_024 * Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);

const ggml = openGgml();
const file = await openWeights(path);
const config = await readModelConfig(file);
const beforeBytes = residentBytes('VmRSS');
const warnings: string[] = [];
const model = await loadModel(ggml, file, {
  config,
  dtype: 'auto',
  packing: forProducts,
  cache: { folder, limitBytes: 2 ** 40, memory: memory as WeightsMemory },
  onWarning: (text) => warnings.push(text),
});
file.close();
const { preparation, numBytes } = model;
await preparation.published;
const { source, numRowsPacked, cpuMs, wallMs } = preparation;
const peakBytes = residentBytes('VmHWM') - beforeBytes;
console.log(
  JSON.stringify({ source, numRowsPacked, cpuMs, wallMs, numBytes, peakBytes, warnings, memory: preparation.memory }),
);
model.close();
