// Owns which elements keys and values are kept in, given what was asked for and what computes.
import { XllmError } from '../../common/errors.ts';
import type { KvElement } from '../kv/cache-group.ts';
import type { DTypePolicy } from '../weights/dtype-policy.ts';
import type { KernelChoice } from './kernel-choice.ts';

export const kvCacheDtypes = ['auto', 'float16', 'bfloat16', 'float32', 'int8'] as const;
export type KvCacheDtype = (typeof kvCacheDtypes)[number];

const elements: Readonly<Record<Exclude<KvCacheDtype, 'auto'>, KvElement>> = {
  float16: 'f16',
  bfloat16: 'bf16',
  float32: 'f32',
  int8: 'int8',
};

/** `auto`: as the weights' policy has it. Throws XllmError usage where ggml is to attend to what it cannot read. */
export function chooseKvElement(wanted: KvCacheDtype, dtype: DTypePolicy, { kernels }: KernelChoice): KvElement {
  if (wanted === 'auto') return dtype === 'float32' ? 'f32' : 'f16';
  const element = elements[wanted];
  if (kernels === 'ggml' && element !== 'f16' && element !== 'f32') {
    throw new XllmError('usage', `--kv-cache-dtype ${wanted} needs emitted kernels, and ggml's run: use float16`);
  }
  return element;
}
