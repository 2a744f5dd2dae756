// Owns how a tile of keys is turned, so that one register holds one element of the head dim for 16 positions.
import { mem } from '../../asm/operands.ts';
import { type Gpr, type Vec, xmm, ymm, zmm } from '../../asm/registers.ts';
import { NUM_LANES } from '../lanes.ts';
import { type Context, emitPrefetch, WIDE_BYTES, withGprs } from './context.ts';

/** Turned keys in scratch: [K,sides,16], as floats, or as halves where they are used only once. */
export interface TurnedKeys {
  readonly sides: number;
  readonly element: 'f16' | 'f32';
}

/** Bytes of 16 positions of one element. */
export const sideBytes = ({ element }: TurnedKeys): number => (element === 'f16' ? WIDE_BYTES / 2 : WIDE_BYTES);

/**
 * Keys of 16 tokens [16,K] at `key` to one side of [K,sides,16] in scratch, 8 elements of the head dim per turn; fetches the tile at
 * `ahead` meanwhile.
 */
export function emitTurnedTile(
  c: Context,
  keys: TurnedKeys,
  { key, ahead, side }: { key: Gpr; ahead: Gpr; side: number },
): void {
  const { a, sizes } = c;
  const stride = keys.sides * sideBytes(keys);
  const linesPerTurn = NUM_LANES * 8 * sizes.elementBytes;
  withGprs(c, 2, (out, count) => {
    a.lea(out, mem(c.scratch, sizes.scratch.keys + side * sideBytes(keys)));
    a.mov(count, sizes.shape.headDim / 8);
    const loop = a.here('turn');
    emitPrefetch(c, mem(ahead), linesPerTurn);
    if (sizes.shape.element === 'f16') turnHalves(c, keys, key, out, stride);
    else for (const first of [0, 8]) turnFloats(c, key, out, stride, first);
    a.add(key, 8 * sizes.elementBytes);
    a.add(ahead, linesPerTurn);
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
function turnHalves({ a, isa, sizes }: Context, keys: TurnedKeys, key: Gpr, out: Gpr, stride: number): void {
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
    if (keys.element === 'f16') {
      a.vmovdqu(place, register);
    } else if (isa === 'avx512') {
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
function turnFloats({ a, sizes }: Context, key: Gpr, out: Gpr, stride: number, first: number): void {
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
