// Owns the kernel that rounds activations to 8 or 16 bits, in blocks of 32 with a scale each.
import type { Assembler } from '../asm/assembler.ts';
import { emitFunction } from '../asm/function.ts';
import { mem, ripMem } from '../asm/operands.ts';
import type { MachineCode } from '../asm/program.ts';
import { type Gpr, rax, rdx, resized, type Vec, ymm } from '../asm/registers.ts';
import { tensorField } from './abi.ts';
import { BLOCK, type RecordLayout, TILE_ROWS } from './product-abi.ts';

/** Blocks of a row that one thread takes at a time. */
const PIECE_BLOCKS = 32;
/** Smaller maxima count as this, so that blocks of zeros have a finite inverse scale. */
export const MIN_ABSMAX = 1e-30;

/**
 * dst the records of src[0] x F32 [M,K], rows `nb[1]` apart. A block's scale is its largest magnitude / the largest
 * quant; quants are rounded to nearest, ties to even. With two parts a row becomes two rows of records, its rounded
 * values and what rounding left of them: their products add up to one with 15 bits of precision. Threads take pieces of
 * rows in turn. AVX2 on every machine: it waits for memory.
 */
export function emitQuantise(record: RecordLayout, numParts: 1 | 2 = 1): MachineCode {
  return emitFunction(`quantise_${record.element}_${numParts}`, 4, (a, f) => {
    const [dst, unit, nth, node] = f.args as [Gpr, Gpr, Gpr, Gpr];
    const numThreads = f.local();
    a.movsxd(rax, nth);
    a.mov(numThreads, rax);
    f.release(nth, node);
    f.take(rax);
    f.take(rdx);
    const [x, numBlocks, numRows, rowBytes] = [f.gpr(), f.gpr(), f.gpr(), f.gpr()];
    const [source, target, step, count, pieces] = [f.gpr(), f.gpr(), f.gpr(), f.gpr(), f.gpr()];
    a.movsxd(unit, unit);
    a.mov(x, mem(dst, tensorField.src));
    a.mov(numBlocks, mem(x, tensorField.ne));
    a.shr(numBlocks, Math.log2(BLOCK));
    a.mov(numRows, mem(x, tensorField.ne + 8));
    a.mov(rowBytes, mem(x, tensorField.nb + 8));
    a.mov(x, mem(x, tensorField.data));
    a.mov(dst, mem(dst, tensorField.data));
    a.lea(pieces, mem(numBlocks, PIECE_BLOCKS - 1));
    a.shr(pieces, Math.log2(PIECE_BLOCKS));
    const emitBlock = blockEmitter(a, record, numParts);

    const loop = a.here('unit');
    a.mov(rax, unit);
    a.mov(rdx, 0);
    a.div(pieces);
    a.cmp(rax, numRows);
    a.jae(f.exit);
    a.mov(count, rdx);
    a.shl(count, Math.log2(PIECE_BLOCKS));
    a.mov(source, rax);
    a.imul(source, rowBytes);
    a.add(source, x);
    a.imul3(step, count, BLOCK * 4);
    a.add(source, step);
    // Rows of records from here on. rax the tile, rdx the row in it, step the tile's rows.
    if (numParts === 2) a.shl(rax, 1);
    a.mov(target, TILE_ROWS);
    a.mov(rdx, 0);
    a.div(target);
    a.imul3(rax, rax, TILE_ROWS);
    a.mov(step, numRows);
    if (numParts === 2) a.shl(step, 1);
    a.sub(step, rax);
    a.cmp(step, target);
    a.cmovg(step, target);
    // The record: (tile's first row * blocks + first block * tile's rows + row in tile).
    a.imul(rax, numBlocks);
    a.add(rdx, rax);
    a.mov(target, count);
    a.imul(target, step);
    a.add(target, rdx);
    a.imul3(target, target, record.bytes);
    a.add(target, dst);
    a.imul3(step, step, record.bytes);
    a.neg(count);
    a.add(count, numBlocks);
    a.mov(rax, PIECE_BLOCKS);
    a.cmp(count, rax);
    a.cmovg(count, rax);

    const block = a.here('block');
    emitBlock(source, target);
    a.add(source, BLOCK * 4);
    a.add(target, step);
    a.sub(count, 1);
    a.jne(block);
    a.add(unit, numThreads);
    a.jmp(loop);
  });
}

/** Loads the constants; the result emits one block of 32 from `source` to the record, or two, at `target`. */
function blockEmitter(a: Assembler, record: RecordLayout, numParts: 1 | 2): (source: Gpr, target: Gpr) => void {
  const quants = [ymm(0), ymm(1), ymm(2), ymm(3)] as const;
  const [q0, q1, q2, q3] = quants;
  const [max, t, inverse, scale] = [ymm(4), ymm(5), ymm(6), ymm(7)];
  const [magnitude, least, most, order] = [ymm(8), ymm(9), ymm(10), ymm(11)];
  const rests = [ymm(12), ymm(13), ymm(14), ymm(15)] as const;
  a.vbroadcastss(magnitude, a.i32(0x7fffffff));
  a.vbroadcastss(least, a.f32(MIN_ABSMAX));
  a.vbroadcastss(most, a.f32(record.maxQuant));
  // Packing works within 128-bit lanes and leaves the groups of four in this order.
  a.vmovups(order, ripMem(a.constant(Int32Array.of(0, 4, 1, 5, 2, 6, 3, 7))));
  const low = (register: Vec) => resized(register, 128);

  /** The 32 floats in `quants` to the record `offset` bytes from `target`. With `source` their rests stay in `rests`. */
  const emitRecord = (target: Gpr, offset: number, source: Gpr | null): void => {
    for (const [i, q] of quants.entries()) {
      a.vandps(i === 0 ? max : t, q, magnitude);
      if (i > 0) a.vmaxps(max, max, t);
    }
    a.vextractf128(low(t), max, 1);
    a.vmaxps(low(max), low(max), low(t));
    a.vpermilps(low(t), low(max), 0b01_00_11_10);
    a.vmaxps(low(max), low(max), low(t));
    a.vpermilps(low(t), low(max), 0b10_11_00_01);
    a.vmaxps(low(max), low(max), low(t));
    a.vmaxps(low(max), low(max), low(least));
    a.vdivps(low(inverse), low(most), low(max));
    a.vdivps(low(scale), low(max), low(most));
    a.vbroadcastss(inverse, low(inverse));
    for (const q of quants) {
      a.vmulps(q, q, inverse);
      a.vcvtps2dq(q, q);
    }
    if (source) {
      a.vbroadcastss(inverse, low(scale));
      for (const [i, rest] of rests.entries()) {
        a.vcvtdq2ps(t, quants[i]!);
        a.vmulps(t, t, inverse);
        a.vmovups(rest, mem(source, 32 * i));
        a.vsubps(rest, rest, t);
      }
    }
    a.vpaddd(t, q0, q1);
    a.vpaddd(max, q2, q3);
    a.vpaddd(t, t, max);
    if (record.element === 's8') {
      a.vpackssdw(q0, q0, q1);
      a.vpackssdw(q2, q2, q3);
      a.vpacksswb(q0, q0, q2);
      a.vpermd(q0, order, q0);
      a.vmovdqu(mem(target, offset), q0);
    } else {
      a.vpackssdw(q0, q0, q1);
      a.vpackssdw(q2, q2, q3);
      a.vpermq(q0, q0, 0b11_01_10_00);
      a.vpermq(q2, q2, 0b11_01_10_00);
      a.vmovdqu(mem(target, offset), q0);
      a.vmovdqu(mem(target, offset + 32), q2);
    }
    a.vextracti128(low(max), t, 1);
    a.vpaddd(low(t), low(t), low(max));
    a.vpshufd(low(max), low(t), 0b01_00_11_10);
    a.vpaddd(low(t), low(t), low(max));
    a.vpshufd(low(max), low(t), 0b10_11_00_01);
    a.vpaddd(low(t), low(t), low(max));
    a.vmovd(mem(target, offset + record.sum), low(t));
    a.vcvtdq2ps(low(t), low(t));
    a.vmulss(low(t), low(t), low(scale));
    a.vmovss(mem(target, offset + record.scaledSum), low(t));
    a.vmovss(mem(target, offset + record.scale), low(scale));
  };

  return (source, target) => {
    for (const [i, q] of quants.entries()) a.vmovups(q, mem(source, 32 * i));
    emitRecord(target, 0, numParts === 2 ? source : null);
    if (numParts === 1) return;
    for (const [i, q] of quants.entries()) a.vmovups(q, rests[i]!);
    // A row's two rows of records are neighbours in their tile.
    emitRecord(target, record.bytes, null);
  };
}
