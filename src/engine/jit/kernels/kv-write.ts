// Owns the kernel that stores a step's keys and values in their pages, in cache precision.
// Legend: T tokens, G kv heads, K head dim.
import type { Assembler } from '../asm/assembler.ts';
import { emitFunction, type Frame } from '../asm/function.ts';
import { mem } from '../asm/operands.ts';
import type { MachineCode } from '../asm/program.ts';
import { type Gpr, rax } from '../asm/registers.ts';
import type { Isa } from '../cpu-features.ts';
import { checkShape, elementBytes, kvWriteField, type KvShape, stepLayout, tensorField } from './abi.ts';
import { Lanes, NUM_LANES } from './lanes.ts';
import { emitOp } from './op.ts';

/** Largest finite number of 2 bytes. Larger ones become it, so that a cached value is never infinite. */
export const MAX_HALF = 65504;

/** Reads keys and values [T,G,K], F32 (`writeKvWriteOp`). A piece is a token. */
export function emitKvWriteOp(shape: KvShape, isa: Isa): MachineCode {
  checkShape(shape);
  return emitOp(
    `kv_write_${isa}`,
    ({ a, numRows }) => a.mov(rax, numRows),
    ({ a, f, op }) => emitToken(a, f, shape, isa, op, rax, null),
  );
}

/**
 * The same as a ggml custom operation: src[0] keys, src[1] values; dst is not touched. Threads take tokens in turn, and
 * padding tokens are left out.
 */
export function emitKvWrite(shape: KvShape, isa: Isa): MachineCode {
  checkShape(shape);
  return emitFunction(`kv_write_node_${isa}`, 4, (a, f) => {
    const [dst, ith, nth, op] = f.args as [Gpr, Gpr, Gpr, Gpr];
    f.take(rax);
    a.movsxd(ith, ith);
    a.movsxd(nth, nth);
    const numTokens = f.gpr();
    a.mov(numTokens, mem(op, kvWriteField.stepCell));
    a.mov(numTokens, mem(numTokens));
    a.movsxd(numTokens, mem(numTokens, stepLayout.step.numTokens));
    const loop = a.here('node_token');
    a.cmp(ith, numTokens);
    a.jge(f.exit);
    a.mov(rax, ith);
    emitToken(a, f, shape, isa, op, rax, dst);
    a.add(ith, nth);
    a.jmp(loop);
  });
}

/** Stores one token's keys and values; from the op's matrices, or the sources of `dst`. */
function emitToken(a: Assembler, f: Frame, shape: KvShape, isa: Isa, op: Gpr, token: Gpr, dst: Gpr | null): void {
  const [record, source, target, stride, count] = [f.gpr(), f.gpr(), f.gpr(), f.gpr(), f.gpr()];
  a.mov(source, mem(op, kvWriteField.stepCell));
  a.mov(source, mem(source));
  a.imul3(record, token, stepLayout.tokenBytes);
  a.add(record, source);
  a.add(record, mem(source, stepLayout.step.tokens));
  for (const part of ['key', 'value'] as const) {
    a.mov(source, token);
    if (dst) {
      a.mov(stride, mem(dst, tensorField.src + (part === 'key' ? 0 : 8)));
      a.imul(source, mem(stride, tensorField.nb + 16));
      a.add(source, mem(stride, tensorField.data));
      a.mov(stride, mem(stride, tensorField.nb + 8));
    } else {
      a.imul(source, mem(op, kvWriteField[`${part}RowBytes`]));
      a.add(source, mem(op, kvWriteField[`${part}s`]));
      a.mov(stride, mem(op, kvWriteField[`${part}HeadBytes`]));
    }
    a.movsxd(target, mem(record, stepLayout.token.slot));
    a.imul3(target, target, shape.headDim * elementBytes(shape));
    a.add(target, mem(record, stepLayout.token.page));
    a.add(target, mem(op, kvWriteField[`${part}Offset`]));
    emitStoreHeads(a, shape, isa, { source, stride, target, count });
  }
  f.release(record, source, target, stride, count);
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
