// Owns which kernel sets the model tests run with.
import { cpuFeatures, supportedIsas } from '../../src/engine/jit/cpu-features.ts';
import type { Kernels } from '../../src/engine/step/kernel-choice.ts';

const emitted = supportedIsas().filter((isa) => isa !== 'avx512' || cpuFeatures().avx512Vnni);

/** At full counts every value of `--kernels` that this CPU can run, by its own name; else what users get, and ggml. */
export const kernelSets: readonly Kernels[] = process.env['XLLM_TEST_FULL'] ? [...emitted, 'ggml'] : ['auto', 'ggml'];
