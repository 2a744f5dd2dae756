// Owns the first phase of a chunk: keys transposed, tile by tile, and their products with all query rows of the tile.
// Each score is one chain of fused multiply-adds over the head dim in ascending order, starting from 0.
import { mem } from '../../asm/operands.ts';
import { type Gpr, type Vec, xmm, ymm, zmm } from '../../asm/registers.ts';
import { Lanes, NUM_LANES } from '../lanes.ts';
import { type Context, forRowGroups, scratchAt, WIDE_BYTES, withGprs } from './context.ts';

/** Fills the chunk's scores from the tiles listed in scratch. */
export function emitScores(c: Context): void {
  const { a, sizes, locals } = c;
  const { scratch, blocking } = sizes;
  withGprs(c, 2, (tile, column) => {
    a.mov(tile, 0);
    a.mov(column, locals.firstColumn);
    const loop = a.here('score_tiles');
    for (let side = 0; side < blocking.scoreTiles; side++) {
      const skip = a.label('no_tile');
      withGprs(c, 1, (index) => {
        a.lea(index, mem(tile, side));
        // A missing second tile leaves old keys there: its columns lie behind the last and are never read.
        if (side > 0) {
          a.cmp(index, locals.numTiles);
          a.jge(skip);
        }
        a.mov(index, mem(c.scratch, scratch.tiles, { index, scale: 8 }));
        a.add(index, locals.keyOffset);
        emitTransposedTile(c, index, side * WIDE_BYTES);
      });
      a.bind(skip);
    }
    emitTileScores(c, column);
    a.add(column, NUM_LANES * blocking.scoreTiles);
    a.add(tile, blocking.scoreTiles);
    a.cmp(tile, locals.numTiles);
    a.jl(loop);
  });
}

/** Scores of the packed keys with every query row, into columns `column` and following. */
function emitTileScores(c: Context, column: Gpr): void {
  const { a, sizes, locals } = c;
  const { scratch, shape } = sizes;
  const rowBytes = shape.headDim * 4;
  withGprs(c, 5, (query, out, remaining, key, count) => {
    a.lea(query, scratchAt(c, scratch.queries));
    a.lea(out, mem(c.scratch, scratch.scores, { index: column, scale: 4 }));
    a.mov(remaining, locals.numRows);
    forRowGroups(c, remaining, 'score', (numRows) => {
      a.lea(key, scratchAt(c, scratch.keys));
      emitDotProducts(c, numRows, { query, out, key, count });
      // The products moved `query` by one row.
      if (numRows > 1) a.add(query, (numRows - 1) * rowBytes);
      a.add(out, numRows * scratch.scoreStride);
    });
  });
}

/** Elements of the head dim per turn of the loop. */
const UNROLL = 4;

function emitDotProducts(
  c: Context,
  numRows: number,
  { query, out, key, count }: Readonly<Record<'query' | 'out' | 'key' | 'count', Gpr>>,
): void {
  const { a, isa, sizes } = c;
  const { headDim } = sizes.shape;
  const { scoreTiles } = sizes.blocking;
  const lanes = new Lanes(a, isa);
  const rows = Array.from({ length: numRows }, () => Array.from({ length: scoreTiles }, () => lanes.take()));
  const keys = Array.from({ length: scoreTiles }, () => lanes.take());
  const element = lanes.takeSplat();
  for (const sum of rows.flat()) lanes.zero(sum);
  a.mov(count, headDim / UNROLL);
  a.align(16);
  const loop = a.here('dot');
  for (let d = 0; d < UNROLL; d++) {
    for (const [side, part] of keys.entries()) lanes.load(part, mem(key, (d * scoreTiles + side) * WIDE_BYTES));
    for (const [row, sums] of rows.entries()) {
      lanes.broadcast(element, mem(query, row * headDim * 4 + d * 4));
      for (const [side, part] of keys.entries()) lanes.op('vfmadd231ps', sums[side] ?? [], part, element);
    }
  }
  a.add(key, UNROLL * scoreTiles * WIDE_BYTES);
  a.add(query, UNROLL * 4);
  a.sub(count, 1);
  a.jne(loop);
  for (const [row, sums] of rows.entries()) {
    for (const [side, sum] of sums.entries()) {
      lanes.store(mem(out, row * sizes.scratch.scoreStride + side * WIDE_BYTES), sum);
    }
  }
}

/** Keys of 16 tokens [16,K] at `key` to [K,16] floats in scratch, 8 elements of the head dim per turn. */
function emitTransposedTile(c: Context, key: Gpr, sideOffset: number): void {
  const { a, sizes } = c;
  const stride = sizes.blocking.scoreTiles * WIDE_BYTES;
  withGprs(c, 2, (out, count) => {
    a.lea(out, scratchAt(c, sizes.scratch.keys + sideOffset));
    a.mov(count, sizes.shape.headDim / 8);
    const loop = a.here('transpose');
    if (sizes.shape.element === 'f16') transposeHalves(c, key, out, stride);
    else for (const first of [0, 8]) transposeFloats(c, key, out, stride, first);
    a.add(key, 8 * sizes.elementBytes);
    a.add(out, 8 * stride);
    a.sub(count, 1);
    a.jne(loop);
  });
}

const eight = (first: number): Vec[] => Array.from({ length: 8 }, (_, i) => ymm(first + i));
type Interleave = 'vpunpcklwd' | 'vpunpckhwd' | 'vpunpckldq' | 'vpunpckhdq' | 'vpunpcklqdq' | 'vpunpckhqdq';

/**
 * 16 tokens x 8 halves. Register i starts with token i in its lower and token i + 8 in its upper half; interleaving
 * pairs of 16, 32 and 64 bits leaves element d of all tokens in register d.
 */
function transposeHalves({ a, isa, sizes }: Context, key: Gpr, out: Gpr, stride: number): void {
  const [x, y] = [eight(0), eight(8)];
  const stages: readonly (readonly [Interleave, Interleave])[] = [
    ['vpunpcklwd', 'vpunpckhwd'],
    ['vpunpckldq', 'vpunpckhdq'],
    ['vpunpcklqdq', 'vpunpckhqdq'],
  ];
  for (const [i, register] of x.entries()) {
    a.vmovdqu(xmm(register.id), mem(key, i * sizes.tokenBytes));
    a.vinserti128(register, register, mem(key, (i + 8) * sizes.tokenBytes), 1);
  }
  let [from, to] = [x, y];
  for (const [stage, [low, high]] of stages.entries()) {
    // Partners stand 1, 2, 4 apart in token order; results keep the order of elements.
    for (let i = 0; i < 4; i++) {
      const [first, second, target] = partners(stage, i);
      a[low](reg(to, target), reg(from, first), reg(from, second));
      a[high](reg(to, target + 1), reg(from, first), reg(from, second));
    }
    [from, to] = [to, from];
  }
  for (const [d, register] of from.entries()) {
    const place = mem(out, d * stride);
    if (isa === 'avx512') {
      a.vcvtph2ps(zmm(16 + d), register);
      a.vmovups(place, zmm(16 + d));
    } else {
      const other = reg(to, d);
      a.vextracti128(xmm(other.id), register, 1);
      a.vcvtph2ps(register, xmm(register.id));
      a.vcvtph2ps(other, xmm(other.id));
      a.vmovups(place, register);
      a.vmovups(mem(out, d * stride + 32), other);
    }
  }
}

/** Registers that one interleaving of a stage reads, and the first of the two that it writes. */
function partners(stage: number, i: number): [number, number, number] {
  // Before: stage 0 by token; 1: [token pair][element half]; 2: [token quad][element pair].
  if (stage === 0) return [2 * i, 2 * i + 1, 2 * i];
  if (stage === 1) {
    const [quad, half] = [i >> 1, i & 1];
    return [4 * quad + half, 4 * quad + 2 + half, 4 * quad + 2 * half];
  }
  return [i, i + 4, 2 * i];
}

/** 8 tokens from `first` on x 8 floats, to half a row of 16. */
function transposeFloats({ a, sizes }: Context, key: Gpr, out: Gpr, stride: number, first: number): void {
  const [x, y] = [eight(0), eight(8)];
  for (const [i, register] of x.entries()) a.vmovups(register, mem(key, (first + i) * sizes.tokenBytes));
  for (let i = 0; i < 8; i += 2) {
    a.vunpcklps(reg(y, i), reg(x, i), reg(x, i + 1));
    a.vunpckhps(reg(y, i + 1), reg(x, i), reg(x, i + 1));
  }
  // Now x[4q + e]: elements e and e + 4 of tokens 4q to 4q + 3.
  for (const quad of [0, 4]) {
    for (const half of [0, 1]) {
      a.vunpcklpd(reg(x, quad + 2 * half), reg(y, quad + half), reg(y, quad + 2 + half));
      a.vunpckhpd(reg(x, quad + 2 * half + 1), reg(y, quad + half), reg(y, quad + 2 + half));
    }
  }
  for (let e = 0; e < 4; e++) {
    a.vperm2f128(reg(y, e), reg(x, e), reg(x, e + 4), 0x20);
    a.vperm2f128(reg(y, e + 4), reg(x, e), reg(x, e + 4), 0x31);
  }
  for (const [d, register] of y.entries()) a.vmovups(mem(out, d * stride + 4 * first), register);
}

function reg(registers: readonly Vec[], index: number): Vec {
  const register = registers[index];
  if (!register) throw new RangeError(`no register ${index}`);
  return register;
}
