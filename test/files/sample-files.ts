// Owns small valid weight files in memory, which tests open, cut and damage.
import { bytesOf } from '../../src/files/dtype.ts';
import { layOutGguf, type TensorPlan, type WritableValue } from '../../src/files/gguf-writer.ts';

/** A whole GGUF file; byte i of each tensor's data is (its index + i) mod 256. */
export function ggufBytes(
  metadata: Iterable<readonly [string, WritableValue]>,
  tensors: readonly TensorPlan[],
  alignment = 32,
): Uint8Array {
  const layout = layOutGguf(new Map(metadata), tensors, alignment);
  const bytes = new Uint8Array(layout.numBytes);
  bytes.set(layout.header);
  for (const [index, tensor] of tensors.entries()) {
    const at = layout.byteOffsets[index] as number;
    const numElements = tensor.shape.reduce((product, size) => product * size, 1);
    for (let i = 0; i < bytesOf(tensor.dtype, numElements); i++) bytes[at + i] = (index + i) % 256;
  }
  return bytes;
}

/** A little of everything that a header may hold. */
export function sampleGguf(): Uint8Array {
  return ggufBytes(
    [
      ['general.architecture', 'llama'],
      ['llama.block_count', { type: 'u32', value: 2 }],
      ['llama.rope.freq_base', { type: 'f32', value: 10_000 }],
      ['a.u64', { type: 'u64', value: 2n ** 60n }],
      ['a.bool', true],
      ['tokenizer.ggml.tokens', ['<s>', 'é', '']],
      ['tokenizer.ggml.token_type', Int32Array.of(3, 1, 1)],
      ['a.nested', [['x'], [Uint8Array.of(1, 2)]]],
    ],
    [
      { name: 'token_embd.weight', dtype: 'Q8_0', shape: [3, 64] },
      { name: 'blk.0.attn_q.weight', dtype: 'Q4_K', shape: [2, 256] },
      { name: 'output_norm.weight', dtype: 'F32', shape: [64] },
    ],
  );
}

export interface SafetensorsEntry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

/** `header` may be JSON text that no honest writer makes. */
export function safetensorsBytes(header: string | Record<string, SafetensorsEntry | object>, numDataBytes: number) {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const bytes = Buffer.alloc(8 + json.length + numDataBytes);
  bytes.writeBigUInt64LE(BigInt(json.length));
  json.copy(bytes, 8);
  for (let i = 0; i < numDataBytes; i++) bytes[8 + json.length + i] = i % 256;
  return bytes;
}

export function sampleSafetensors(): Uint8Array {
  return safetensorsBytes(
    {
      __metadata__: { format: 'pt' },
      'model.embed_tokens.weight': { dtype: 'BF16', shape: [4, 8], data_offsets: [0, 64] },
      'model.norm.weight': { dtype: 'F32', shape: [8], data_offsets: [64, 96] },
      ids: { dtype: 'I64', shape: [2], data_offsets: [96, 112] },
      scalar: { dtype: 'F16', shape: [], data_offsets: [112, 114] },
    },
    114,
  );
}
