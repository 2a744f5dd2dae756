// Owns the kernel that stores a step's keys and values in their pages, in cache precision.
// Legend: T tokens, G kv heads, K head dim.
import type { Assembler } from '../asm/assembler.ts';
import type { Frame } from '../asm/function.ts';
import { mem } from '../asm/operands.ts';
import type { MachineCode } from '../asm/program.ts';
import { type Gpr, rax } from '../asm/registers.ts';
import type { Isa } from '../cpu-features.ts';
import {
  checkShape,
  elementBytes,
  hasScales,
  headBytes,
  type KvShape,
  kvWriteField,
  shapeName,
  TILE_TOKENS,
  tileElementBytes,
} from './abi.ts';
import { roundElements, storeAdjacent, storeApart } from './kv-element.ts';
import { Lanes, lowest, NUM_LANES, type Wide } from './lanes.ts';
import { emitOp } from './op.ts';
import { stepLayout } from './step-block.ts';

/** What a head's largest magnitude is taken for where it is smaller or larger: scale and inverse are normal numbers. */
export const LEAST_MAGNITUDE = 2 ** -100;
export const MOST_MAGNITUDE = 2 ** 127;

/** Tokens of a piece. */
const PIECE_TOKENS = 4;

/** Reads keys and values [T,G,K], F32 (`writeKvWriteOp`). A piece is a few tokens. */
export function emitKvWriteOp(shape: KvShape, isa: Isa): MachineCode {
  checkShape(shape);
  return emitOp(
    `kv_write_${shapeName(shape)}_${isa}`,
    ({ a, numRows }) => {
      a.mov(rax, numRows);
      a.add(rax, PIECE_TOKENS - 1);
      a.shr(rax, Math.log2(PIECE_TOKENS));
    },
    ({ a, f, op, numRows }) => {
      const [token, end] = [f.gpr(), f.local()];
      a.imul3(token, rax, PIECE_TOKENS);
      a.lea(rax, mem(token, PIECE_TOKENS));
      a.cmp(rax, numRows);
      a.cmovg(rax, numRows);
      a.mov(end, rax);
      const loop = a.here('token');
      emitToken(a, f, shape, isa, op, token);
      a.add(token, 1);
      a.cmp(token, end);
      a.jl(loop);
      f.release(token);
    },
  );
}

/** Stores one token's keys and values. */
function emitToken(a: Assembler, f: Frame, shape: KvShape, isa: Isa, op: Gpr, token: Gpr): void {
  const registers = { source: f.gpr(), stride: f.gpr(), target: f.gpr(), scales: f.gpr(), count: f.gpr() };
  const [record, { source, stride, target, scales }] = [f.gpr(), registers];
  a.mov(source, mem(op, kvWriteField.stepCell));
  a.mov(source, mem(source));
  a.imul3(record, token, stepLayout.tokenBytes);
  a.add(record, source);
  a.add(record, mem(source, stepLayout.step.tokens));
  for (const part of ['key', 'value'] as const) {
    a.mov(source, token);
    a.imul(source, mem(op, kvWriteField[`${part}RowBytes`]));
    a.add(source, mem(op, kvWriteField[`${part}s`]));
    a.mov(stride, mem(op, kvWriteField[`${part}HeadBytes`]));
    a.mov(target, mem(record, stepLayout.token.tile));
    a.add(target, mem(op, kvWriteField[`${part}Offset`]));
    a.movsxd(scales, mem(record, stepLayout.token.lane));
    a.imul3(registers.count, scales, elementBytes(shape) * (part === 'key' ? 1 : shape.headDim));
    a.lea(scales, mem(target, tileElementBytes(shape), { index: scales, scale: 4 }));
    a.add(target, registers.count);
    emitStoreHeads(a, shape, isa, part, registers);
  }
  f.release(record, ...Object.values(registers));
}

type Registers = Readonly<Record<'source' | 'stride' | 'target' | 'scales' | 'count', Gpr>>;

/** Stores one token's heads; source, target and scales advance. */
function emitStoreHeads(
  a: Assembler,
  shape: KvShape,
  isa: Isa,
  part: 'key' | 'value',
  { source, stride, target, scales, count }: Registers,
): void {
  const { numKvHeads, headDim, element } = shape;
  const numBytes = elementBytes(shape);
  const lanes = new Lanes(a, isa);
  const [values, temporary, inverse] = [lanes.take(), lanes.take(), lanes.takeSplat()];
  a.mov(count, numKvHeads);
  const loop = a.here('head');
  if (hasScales(shape)) emitScale(a, lanes, headDim, { source, scales, inverse });
  for (let d = 0; d < headDim; d += NUM_LANES) {
    lanes.load(values, mem(source, 4 * d));
    if (hasScales(shape)) lanes.op('vmulps', values, values, inverse);
    roundElements(a, lanes, element, values, temporary);
    // A key's elements go to one lane of a row each, a value's lie side by side.
    if (part === 'value') storeAdjacent(a, element, mem(target, d * numBytes), values, temporary);
    else storeApart(a, element, mem(target, d * TILE_TOKENS * numBytes), TILE_TOKENS * numBytes, values, temporary);
  }
  a.add(source, stride);
  a.add(target, headBytes(shape));
  if (hasScales(shape)) a.add(scales, headBytes(shape));
  a.sub(count, 1);
  a.jne(loop);
}

/** The scale of one head: a 127th of its largest magnitude. */
function emitScale(
  a: Assembler,
  lanes: Lanes,
  headDim: number,
  { source, scales, inverse }: { readonly source: Gpr; readonly scales: Gpr; readonly inverse: Wide },
): void {
  const [most, values, scale] = [lanes.take(), lanes.take(), lanes.take()];
  lanes.load(most, lanes.constant(LEAST_MAGNITUDE));
  for (let d = 0; d < headDim; d += NUM_LANES) {
    lanes.load(values, mem(source, 4 * d));
    lanes.op('vandps', values, values, lanes.constantBits(0x7fff_ffff));
    // In this order of the sources a NaN leaves the maximum.
    lanes.op('vmaxps', most, values, most);
  }
  lanes.spread(most, lanes.fold('vmaxps', most, values));
  lanes.op('vminps', most, most, lanes.constant(MOST_MAGNITUDE));
  lanes.op('vmulps', scale, most, lanes.constant(1 / 127));
  a.vmovss(mem(scales), lowest(scale));
  lanes.load(scale, lanes.constant(127));
  lanes.op('vdivps', scale, scale, most);
  for (const part of new Set(inverse)) a.vmovaps(part, scale[0] ?? part);
  lanes.release(most, values, scale);
}
