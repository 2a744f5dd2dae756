// Owns the tests of reading GGUF files: round trips, split sets, and a precise fault for each thing that can be wrong.
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { dtypes, type DType } from '../../src/files/dtype.ts';
import type { TensorPlan, WritableValue } from '../../src/files/gguf-writer.ts';
import { openWeights } from '../../src/files/open-weights.ts';
import type { GgufFile, GgufValue } from '../../src/files/weights-file.ts';
import { ggufBytes, sampleGguf } from './sample-files.ts';
import { putFile, useTempFolder } from './temp-folder.ts';

const folder = useTempFolder('gguf');

async function openBytes(bytes: Uint8Array, name = 'm.gguf'): Promise<GgufFile> {
  const file = await openWeights(putFile(folder, name, bytes));
  if (file.kind !== 'gguf') throw new Error('expected a GGUF file');
  return file;
}

/** The message of the model_file_invalid fault that opening gives. */
async function faultOf(bytes: Uint8Array, name?: string): Promise<string> {
  const error: unknown = await openBytes(bytes, name).then(
    (file) => file.close(),
    (reason: unknown) => reason,
  );
  expect(error).toMatchObject({ code: 'model_file_invalid' });
  return (error as Error).message;
}

const f32Tensor = (name: string): TensorPlan => ({ name, dtype: 'F32', shape: [8] });

/** A copy of `bytes` with `value` written at the `nth` place where `text` ends, plus `skip`. */
function patchAfter(bytes: Uint8Array, text: string, skip: number, value: bigint, width: 4 | 8): Uint8Array {
  const copy = Buffer.from(bytes);
  const at = copy.lastIndexOf(text) + text.length + skip;
  if (width === 4) copy.writeUInt32LE(Number(value), at);
  else copy.writeBigUInt64LE(value, at);
  return copy;
}

describe('a GGUF file', () => {
  it('gives its metadata, with 64-bit numbers as numbers where they are safe', async () => {
    const file = await openBytes(sampleGguf());
    expect(Object.fromEntries(file.metadata)).toEqual({
      'general.architecture': 'llama',
      'llama.block_count': 2,
      'llama.rope.freq_base': 10_000,
      'a.u64': 2n ** 60n,
      'a.bool': true,
      'tokenizer.ggml.tokens': ['<s>', 'é', ''],
      'tokenizer.ggml.token_type': Int32Array.of(3, 1, 1),
      'a.nested': [['x'], [Uint8Array.of(1, 2)]],
    });
    file.close();
  });

  it('gives tensors outermost dimension first and reads any part of them', async () => {
    const file = await openBytes(sampleGguf());
    const info = file.tensors.get('blk.0.attn_q.weight');
    expect(info).toMatchObject({ dtype: 'Q4_K', shape: [2, 256], numElements: 512, numBytes: 288, fileIndex: 0 });
    const part = new Uint8Array(10);
    await file.read('blk.0.attn_q.weight', part, 278);
    expect([...part]).toEqual(Array.from({ length: 10 }, (_, i) => (1 + 278 + i) % 256));
    await expect(file.read('blk.0.attn_q.weight', part, 279)).rejects.toThrow('which has 288');
    await expect(file.read('nothing', part)).rejects.toMatchObject({ code: 'model_file_invalid' });
    file.close();
    file.close();
  });

  it('reads back whatever the writer wrote', async () => {
    const integer = (type: 'u8' | 'i8' | 'u16' | 'i16' | 'u32' | 'i32', min: number, max: number) =>
      fc.integer({ min, max }).map((value): WritableValue => ({ type, value }));
    const value: fc.Arbitrary<WritableValue> = fc.oneof(
      fc.string({ unit: 'grapheme' }),
      fc.boolean(),
      integer('u8', 0, 255),
      integer('i8', -128, 127),
      integer('u16', 0, 65_535),
      integer('i16', -32_768, 32_767),
      integer('u32', 0, 2 ** 32 - 1),
      integer('i32', -(2 ** 31), 2 ** 31 - 1),
      fc.float({ noNaN: true }).map((n): WritableValue => ({ type: 'f32', value: n })),
      fc.double({ noNaN: true }).map((n): WritableValue => ({ type: 'f64', value: n })),
      fc.bigInt(0n, 2n ** 64n - 1n).map((n): WritableValue => ({ type: 'u64', value: n })),
      fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n).map((n): WritableValue => ({ type: 'i64', value: n })),
      fc.array(fc.string(), { minLength: 1 }),
      fc.array(fc.boolean(), { minLength: 1 }),
      fc.array(fc.maxSafeNat(), { minLength: 1 }),
      fc.array(fc.array(fc.boolean(), { minLength: 1 }), { minLength: 1 }),
      fc.int16Array(),
      fc.float32Array({ noNaN: true }),
      fc.float64Array({ noNaN: true }),
    );
    const ggufTypes = (Object.keys(dtypes) as DType[]).filter((dtype) => dtypes[dtype].ggmlType !== undefined);
    const tensor = fc.record({
      dtype: fc.constantFrom(...ggufTypes),
      rows: fc.array(fc.integer({ min: 1, max: 4 }), { maxLength: 3 }),
      blocks: fc.integer({ min: 1, max: 3 }),
    });
    const alignment = fc.constantFrom(8, 32, 256);
    const keys = fc.uniqueArray(fc.string({ minLength: 1 }), { maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(
        keys,
        fc.array(value),
        fc.array(tensor, { maxLength: 5 }),
        alignment,
        async (names, values, specs, align) => {
          const metadata = names
            .filter((name) => name !== 'general.alignment')
            .slice(0, values.length)
            .map((name, i) => [name, values[i] as WritableValue] as const);
          const plans = specs.map(({ dtype, rows, blocks }, i) => ({
            name: `t${i}`,
            dtype,
            shape: [...rows, blocks * dtypes[dtype].blockElements],
          }));
          const file = await openBytes(ggufBytes(metadata, plans, align));
          for (const [key, written] of metadata) expect(file.metadata.get(key)).toEqual(plainValue(written));
          for (const [index, plan] of plans.entries()) {
            const info = file.tensors.get(plan.name);
            expect(info).toMatchObject(plan);
            const data = new Uint8Array(info?.numBytes ?? 0);
            await file.read(plan.name, data);
            expect(data.every((byte, i) => byte === (index + i) % 256)).toBe(true);
          }
          expect(file.tensors.size).toBe(plans.length);
          file.close();
        },
      ),
      { numRuns: process.env['XLLM_TEST_FULL'] ? 500 : 60, seed: 3 },
    );
  });

  it('parses a vocabulary of 150,000 tokens', async () => {
    const tokens = Array.from({ length: 150_000 }, (_, i) => `Ġtoken${i}`);
    const bytes = ggufBytes([['tokenizer.ggml.tokens', tokens]], []);
    const start = performance.now();
    const file = await openBytes(bytes);
    console.log(`150,000 tokens: ${(performance.now() - start).toFixed(0)} ms (target: below 300)`);
    expect(file.metadata.get('tokenizer.ggml.tokens')).toEqual(tokens);
    file.close();
  });
});

function plainValue(written: WritableValue): GgufValue {
  if (typeof written !== 'object' || !('type' in written)) return written;
  const { type, value } = written;
  if (type === 'f32') return Math.fround(Number(value));
  return typeof value === 'bigint' && Number.isSafeInteger(Number(value)) ? Number(value) : value;
}

describe('a split GGUF set', () => {
  const part = (no: number, count: number, tensors: readonly TensorPlan[], total = 2) =>
    ggufBytes(
      [
        ['split.no', { type: 'u16', value: no }],
        ['split.count', { type: 'u16', value: count }],
        ['split.tensors.count', { type: 'i32', value: total }],
        ...(no === 0 ? [['general.architecture', 'llama'] as const] : []),
      ],
      tensors,
    );
  const put = (no: number, bytes: Uint8Array) => putFile(folder, `s-0000${no + 1}-of-00002.gguf`, bytes);

  it('opens from any of its parts', async () => {
    put(0, part(0, 2, [f32Tensor('a')]));
    const second = put(1, part(1, 2, [f32Tensor('b')]));
    const file = await openWeights(second);
    expect([...file.tensors.values()].map((t) => [t.name, t.fileIndex])).toEqual([
      ['a', 0],
      ['b', 1],
    ]);
    expect(file.kind === 'gguf' && file.metadata.get('general.architecture')).toBe('llama');
    file.close();
  });

  it('names what does not fit', async () => {
    const first = put(0, part(0, 2, [f32Tensor('a')]));
    const fault = async (second: Uint8Array) => {
      put(1, second);
      return openWeights(first).then(
        () => 'opened',
        (error: Error) => error.message,
      );
    };
    expect(await fault(part(1, 2, [f32Tensor('a')]))).toContain('which an earlier part holds too');
    expect(await fault(part(0, 2, [f32Tensor('b')]))).toContain('part 1 of 2 by its name');
    expect(await fault(part(1, 3, [f32Tensor('b')]))).toContain('part 1 of 3 (from 0) by its metadata');
    expect(await fault(part(1, 2, []))).toContain('states 2 tensors');
    const renamed = putFile(folder, 'renamed.gguf', part(0, 2, [f32Tensor('a')]));
    await expect(openWeights(renamed)).rejects.toThrow('restore its name');
    const alone = putFile(folder, 'alone-00001-of-00002.gguf', part(0, 2, [f32Tensor('a')]));
    await expect(openWeights(alone)).rejects.toMatchObject({ code: 'model_unavailable' });
  });
});

describe('a wrong GGUF file', () => {
  it('is refused wherever it is cut', async () => {
    const bytes = sampleGguf();
    // The data of the last tensor ends the file, so that no cut is harmless.
    const end = bytes.length - (bytes.length % 32);
    for (let length = 0; length < end; length += length < 700 ? 1 : 37) {
      expect(await faultOf(bytes.subarray(0, length))).toMatch(/m\.gguf: .*\(at byte \d+\)|neither a GGUF/);
    }
  });

  it('is refused by version and byte order', async () => {
    const header = (version: number[]) => Buffer.from([...Buffer.from('GGUF'), ...version, ...new Uint8Array(16)]);
    expect(await faultOf(header([0, 0, 0, 3]))).toContain('big-endian');
    expect(await faultOf(header([1, 0, 0, 0]))).toContain('GGUF version 1');
    expect(await faultOf(Buffer.from('GGML........'))).toContain('neither a GGUF nor a .safetensors');
  });

  it('is refused by the name of a format that is not read', async () => {
    const bytes = ggufBytes([], [f32Tensor('odd')]);
    // After the name: u32 dimensions, one u64, u32 type.
    expect(await faultOf(patchAfter(bytes, 'odd', 12, 23n, 4))).toContain('odd is in IQ4_XS, which is not supported');
    expect(await faultOf(patchAfter(bytes, 'odd', 12, 77n, 4))).toContain('the unknown type 77');
  });

  it('is refused for impossible shapes, offsets and alignments', async () => {
    const bytes = ggufBytes([], [f32Tensor('odd')]);
    expect(await faultOf(patchAfter(bytes, 'odd', 0, 5n, 4))).toContain('5 dimensions');
    expect(await faultOf(patchAfter(bytes, 'odd', 4, 2n ** 63n, 8))).toContain('dimension 0 of odd');
    expect(await faultOf(patchAfter(bytes, 'odd', 4, 2n ** 52n, 8))).toContain('impossible shape');
    expect(await faultOf(patchAfter(bytes, 'odd', 4, 2n ** 40n, 8))).toContain('is it truncated?');
    expect(await faultOf(patchAfter(bytes, 'odd', 16, 4n, 8))).toContain('not a multiple of 32');
    expect(await faultOf(patchAfter(bytes, 'odd', 16, 2n ** 53n - 32n, 8))).toContain('is it truncated?');
    const quantised = ggufBytes([], [{ name: 'odd', dtype: 'Q8_0', shape: [32] }]);
    expect(await faultOf(patchAfter(quantised, 'odd', 4, 31n, 8))).toContain("not a multiple of Q8_0's block");
    for (const value of [0, 3, 2 ** 31]) {
      const alignment = ggufBytes([['general.alignment', { type: 'u32', value }]], []);
      expect(await faultOf(alignment)).toContain('not a power of two');
    }
  });

  it('is refused for names that come twice and data that overlaps', async () => {
    const two = Buffer.from(
      ggufBytes(
        [
          ['k.a', true],
          ['k.b', true],
        ],
        [f32Tensor('t.a'), f32Tensor('t.b')],
      ),
    );
    const renamed = (from: string, to: string) => Buffer.from(two.toString('latin1').replace(from, to), 'latin1');
    expect(await faultOf(renamed('k.b', 'k.a'))).toContain('two metadata keys are k.a');
    expect(await faultOf(renamed('t.b', 't.a'))).toContain('two tensors are named t.a');
    expect(await faultOf(patchAfter(two, 't.b', 16, 0n, 8))).toContain('t.a and t.b overlap');
  });

  it('is refused for lengths that lie, in a file large enough to hold them', async () => {
    const lies: [string, Uint8Array, RegExp][] = [
      ['string', ggufBytes([['k', 'v']], []), /k is \d+, at most/],
      ['array', ggufBytes([['k', Uint8Array.of(1)]], []), /the length of k is \d+, at most/],
    ];
    for (const [name, bytes, message] of lies) {
      const path = putFile(folder, `${name}.gguf`, patchAfter(bytes, 'k', name === 'array' ? 8 : 4, 2n ** 36n, 8));
      const fd = openSync(path, 'r+');
      ftruncateSync(fd, 2 ** 40); // sparse
      closeSync(fd);
      const before = process.memoryUsage().rss;
      await expect(openWeights(path)).rejects.toThrow(message);
      expect(process.memoryUsage().rss - before).toBeLessThan(64 << 20);
    }
  });

  it('is refused when nothing but headers fills a terabyte', async () => {
    const path = join(folder, 'endless.gguf');
    const fd = openSync(path, 'w');
    writeSync(fd, ggufBytes([], []).subarray(0, 16));
    writeSync(fd, Buffer.from(BigUint64Array.of(60_000n).buffer), 0, 8, 16);
    ftruncateSync(fd, 2 ** 40);
    closeSync(fd);
    // Zeros read as the key '' with value type u8 and value 0: the second one is a repetition.
    await expect(openWeights(path)).rejects.toThrow('two metadata keys');
  });

  it('is no file at all', async () => {
    await expect(openWeights(join(folder, 'absent.gguf'))).rejects.toMatchObject({ code: 'model_unavailable' });
    await expect(openWeights('/dev/null')).rejects.toThrow('not a regular file');
  });
});
