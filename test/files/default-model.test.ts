// Owns the test that the default model is what its published facts say.
import { describe, expect, it } from 'vitest';
import { openWeights } from '../../src/files/open-weights.ts';
import { defaultModel } from '../../src/files/resolve/catalogue.ts';
import { hasChecksum } from '../../src/files/resolve/checksum.ts';
import { resolveModel } from '../../src/files/resolve/resolve-model.ts';
import { modelSettings } from '../../src/files/resolve/settings.ts';

describe('the default model', () => {
  it('has its checksum, metadata and tensors', async () => {
    const { path } = await resolveModel(undefined, { settings: modelSettings(process.env) });
    const { numBytes, sha256 } = defaultModel.pin;
    expect(await hasChecksum(path, numBytes, { kind: 'sha256', hex: sha256 })).toBe(true);
    const file = await openWeights(path);
    if (file.kind !== 'gguf') throw new Error('expected GGUF');
    expect(file.metadata.size).toBe(33);
    expect(file.metadata.get('llama.block_count')).toBe(30);
    expect(file.metadata.get('llama.attention.layer_norm_rms_epsilon')).toBe(Math.fround(1e-5));
    expect((file.metadata.get('tokenizer.ggml.tokens') as string[])[2]).toBe('<|im_end|>');
    const formats = Map.groupBy(file.tensors.values(), ({ dtype }) => dtype);
    expect([...formats].map(([dtype, members]) => [dtype, members.length])).toEqual([
      ['Q8_0', 1],
      ['F32', 61],
      ['Q4_1', 210],
    ]);
    // The file ends with its last tensor.
    const end = Math.max(...[...file.tensors.values()].map((tensor) => tensor.byteOffset + tensor.numBytes));
    expect(end).toBe(numBytes);
    file.close();
  });
});
