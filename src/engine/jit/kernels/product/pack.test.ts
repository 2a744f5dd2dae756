// Packing loses nothing: rows found again equal ggml's own dequantisation of the file's bytes, for every format.
import { describe, expect, it } from 'vitest';
import { openGgml } from '../../../ffi/ggml.ts';
import { tensorTypes } from '../../../tensor/dtype.ts';
import { packedBytes, packedFormats, packedLayout, STRIP_ROWS } from './layout.ts';
import { gatedRows, packedRow, packRows } from './pack.ts';
import { generator, layoutOf, randomRows } from './testing/random.ts';
import { unpackRow } from './unpack.ref.ts';

describe('packing', () => {
  const ggml = openGgml();

  it.each(packedFormats)('%s: every row is found again, as ggml dequantises it', (format) => {
    const [N, K] = [STRIP_ROWS + 5, 768];
    const layout = layoutOf(format);
    const rows = randomRows(format, N, K, generator(1));
    const packed = new Uint8Array(packedBytes(layout, N, K));
    // In two calls, as a loader does that reads a file in pieces.
    const half = (rows.length / N) * 20;
    packRows(layout, rows.slice(0, half), K, packed, 0);
    packRows(layout, rows.slice(half), K, packed, 20);
    for (let n = 0; n < N; n++) {
      const bytes = rows.slice((n * rows.length) / N, ((n + 1) * rows.length) / N);
      const expected = new Float32Array(K);
      if (format === 'F32') expected.set(new Float32Array(bytes.buffer));
      else ggml.dequantizeRow(tensorTypes[format].ggmlType, bytes, expected);
      expect(unpackRow(layout, packed, K, n)).toEqual(expected);
    }
    // Missing rows of the last strip are zeros.
    if (layout.kind === 'float') expect(unpackRow(layout, packed, K, N)).toEqual(new Float32Array(K));
  });

  it('puts gate and up rows side by side', () => {
    const [F, K] = [19, 64];
    const layout = layoutOf('Q4_0');
    const [gate, up] = [randomRows('Q4_0', F, K, generator(2)), randomRows('Q4_0', F, K, generator(3))];
    const packed = new Uint8Array(packedBytes(layout, gatedRows(F), K));
    packRows(layout, gate, K, packed, 0, 'gate');
    packRows(layout, up, K, packed, 0, 'up');
    const plain = new Uint8Array(packedBytes(layout, F, K));
    for (const [place, rows] of [['gate', gate] as const, ['up', up] as const]) {
      plain.fill(0);
      packRows(layout, rows, K, plain, 0);
      for (let n = 0; n < F; n++) {
        expect(unpackRow(layout, packed, K, packedRow(place, n))).toEqual(unpackRow(layout, plain, K, n));
      }
    }
  });

  it('refuses what it cannot pack', () => {
    expect(packedLayout('MXFP4')).toBeNull();
    expect(() => packedBytes(layoutOf('Q8_0'), 32, 40)).toThrow(/whole blocks of 32/);
    expect(() => packedBytes(layoutOf('Q4_K'), 32, 288)).toThrow(/whole blocks of 256/);
  });
});
