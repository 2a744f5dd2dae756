// The roofline loops read exactly their slices, and do as many operations as they say.
import { expect, test } from 'vitest';
import { type CpuFeatures, type Isa, parseCpuFlags } from '../cpu-features.ts';
import { interpret } from '../testing/interpreter.ts';
import {
  emitProductLoop,
  emitRead,
  READ_BYTES_PER_TURN,
  ROOFLINE_BLOCK_BYTES,
  writeRooflineBlock,
} from './roofline.ts';

const isas: readonly Isa[] = ['avx2', 'avx512'];
const [blockAddress, memoryAddress] = [0x10_0000, 0x20_0000];
const allFeatures: CpuFeatures = parseCpuFlags(
  'flags : avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16',
);

test.each(isas)('%s: each thread reads its slice to the last byte, and nothing else', (isa) => {
  const count = 3;
  const sliceBytes = count * READ_BYTES_PER_TURN;
  const block = new DataView(new ArrayBuffer(ROOFLINE_BLOCK_BYTES));
  writeRooflineBlock(block.buffer, 0, { address: memoryAddress, sliceBytes, count });
  const run = (thread: number, first: number, numBytes: number) =>
    interpret(
      emitRead(isa),
      [0, thread, 2, blockAddress],
      [
        { address: blockAddress, view: block },
        { address: memoryAddress + first, view: new DataView(new ArrayBuffer(numBytes)) },
      ],
    );
  for (const thread of [0, 1]) {
    run(thread, thread * sliceBytes, sliceBytes);
    expect(() => run(thread, thread * sliceBytes, sliceBytes - 1)).toThrow();
    expect(() => run(thread, thread * sliceBytes + 1, sliceBytes)).toThrow();
  }
});

/** Operations of one instruction in a register of 16 or 8 floats. */
const operationsOf: Readonly<Record<string, (lanes: number) => number>> = {
  vpdpbusd: (lanes) => 8 * lanes,
  vpmaddubsw: (lanes) => 8 * lanes,
  vdpbf16ps: (lanes) => 4 * lanes,
  vfmadd231ps: (lanes) => 2 * lanes,
};

test.each(isas.flatMap((isa) => (['int8', 'bf16', 'f32'] as const).map((kind) => ({ isa, kind }))))(
  '$isa, $kind: a turn is as many operations as it says',
  ({ isa, kind }) => {
    const loop = emitProductLoop(kind, isa, allFeatures);
    if (isa === 'avx2' && kind === 'bf16') {
      expect(loop).toBeNull();
      return;
    }
    const keys = loop!.code.items.flatMap(({ item }) => (item.kind === 'instruction' ? [item.key] : []));
    const lanes = isa === 'avx512' ? 16 : 8;
    const total = keys.reduce((sum, key) => sum + (operationsOf[key]?.(lanes) ?? 0), 0);
    expect(loop!.operationsPerTurn).toBe(total);
    expect(total).toBeGreaterThan(0);
  },
);
