// Owns the kernel that stores a step's keys and values in their pages, in cache precision.
// Legend: T tokens, G kv heads, K head dim.
import type { Assembler } from '../asm/assembler.ts';
import { emitFunction } from '../asm/function.ts';
import { mem } from '../asm/operands.ts';
import type { MachineCode } from '../asm/program.ts';
import type { Gpr } from '../asm/registers.ts';
import type { Isa } from '../cpu-features.ts';
import { checkShape, elementBytes, type KvShape, nodeField, stepLayout, tensorField } from './abi.ts';
import { Lanes, NUM_LANES } from './lanes.ts';

/** Largest finite number of 2 bytes. Larger ones become it, so that a cached value is never infinite. */
export const MAX_HALF = 65504;

/**
 * src[0] keys [T,G,K], src[1] values [T,G,K], F32, elements of a head adjacent, strides free. dst is not touched.
 * Threads take tokens in turn.
 */
export function emitKvWrite(shape: KvShape, isa: Isa): MachineCode {
  checkShape(shape);
  const { step, token } = stepLayout;
  return emitFunction(`kv_write_${isa}`, 4, (a, f) => {
    const [dst, ith, nth, node] = f.args as [Gpr, Gpr, Gpr, Gpr];
    const [block, current, page, source, target, stride] = [f.gpr(), f.gpr(), f.gpr(), f.gpr(), f.gpr(), f.gpr()];
    const [slotBytes, count] = [f.gpr(), f.gpr()];
    a.movsxd(current, ith);
    a.movsxd(nth, nth);
    a.mov(block, mem(node, nodeField.stepCell));
    a.mov(block, mem(block));
    f.release(ith);
    const numTokens = f.gpr();
    a.movsxd(numTokens, mem(block, step.numTokens));

    const loop = a.label('token');
    a.bind(loop);
    a.cmp(current, numTokens);
    a.jge(f.exit);
    a.imul3(source, current, stepLayout.tokenBytes);
    a.add(source, block);
    a.add(source, mem(block, step.tokens));
    a.mov(page, mem(source, token.page));
    a.movsxd(slotBytes, mem(source, token.slot));
    a.imul3(slotBytes, slotBytes, shape.headDim * elementBytes(shape));
    for (const [index, part] of [nodeField.keyOffset, nodeField.valueOffset].entries()) {
      const tensor = stride;
      a.mov(tensor, mem(dst, tensorField.src + 8 * index));
      a.mov(source, current);
      a.imul(source, mem(tensor, tensorField.nb + 16));
      a.add(source, mem(tensor, tensorField.data));
      a.mov(stride, mem(tensor, tensorField.nb + 8));
      a.mov(target, page);
      a.add(target, slotBytes);
      a.add(target, mem(node, part));
      emitStoreHeads(a, shape, isa, { source, stride, target, count });
    }
    a.add(current, nth);
    a.jmp(loop);
  });
}

/** Stores one token's heads; source and target advance. */
function emitStoreHeads(
  a: Assembler,
  shape: KvShape,
  isa: Isa,
  { source, stride, target, count }: Readonly<Record<'source' | 'stride' | 'target' | 'count', Gpr>>,
): void {
  const { numKvHeads, headDim, blockTokens } = shape;
  const lanes = new Lanes(a, isa);
  const [most, least, values] = [lanes.takeSplat(), lanes.takeSplat(), lanes.take()];
  lanes.broadcast(most, a.f32(MAX_HALF));
  lanes.broadcast(least, a.f32(-MAX_HALF));
  a.mov(count, numKvHeads);
  const loop = a.here('head');
  for (let d = 0; d < headDim; d += NUM_LANES) {
    lanes.load(values, mem(source, 4 * d));
    if (shape.element === 'f32') {
      lanes.store(mem(target, 4 * d), values);
      continue;
    }
    // In this order of the sources a NaN stays one.
    lanes.op('vminps', values, most, values);
    lanes.op('vmaxps', values, least, values);
    lanes.storeHalf(mem(target, 2 * d), values);
  }
  a.add(source, stride);
  a.add(target, blockTokens * headDim * elementBytes(shape));
  a.sub(count, 1);
  a.jne(loop);
}
