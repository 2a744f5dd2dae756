// Owns what vector instructions do that pack elements, multiply small ones, or combine lanes, for the interpreter.
import type { Operand, VecOrMem } from '../asm/operands.ts';
import type { Gpr, Vec } from '../asm/registers.ts';
import { fma32 } from '../kernels/float.ref.ts';
import type { VectorMachine } from './vector-semantics.ts';

type Semantics = (m: VectorMachine, operands: readonly Operand[]) => void;

const numLanes = (operand: Operand | undefined): number => (operand as Vec).bits / 32;
const floatsOf = (lanes: Uint32Array) => new Float32Array(lanes.buffer);
const wordsOf = (lanes: Uint32Array) => new Int16Array(lanes.buffer);
const setFloats = (m: VectorMachine, dst: Operand | undefined, values: ArrayLike<number>) =>
  m.setLanes(dst as VecOrMem, new Uint32Array(Float32Array.from(values).buffer));

/** Elements of both sources, saturated to half their size, within each 128 bits. */
const packSigned =
  (From: typeof Int32Array | typeof Int16Array, To: typeof Int16Array | typeof Int8Array, most: number): Semantics =>
  (m, [dst, first, second]) => {
    const n = numLanes(dst);
    const [a, b] = [first, second].map((operand) => new From(m.lanes(operand as VecOrMem, n).buffer as ArrayBuffer));
    const half = 16 / From.BYTES_PER_ELEMENT;
    const packed = new To(2 * a!.length);
    for (let at = 0; at < packed.length; at++) {
      const [within, group] = [at % (2 * half), Math.floor(at / (2 * half))];
      const value = (within < half ? a : b)![group * half + (within % half)]!;
      packed[at] = Math.min(most, Math.max(-most - 1, value));
    }
    m.setLanes(dst as Vec, new Uint32Array(packed.buffer as ArrayBuffer));
  };

const lanewise =
  (op: (x: number, y: number) => number): Semantics =>
  (m, [dst, first, second]) => {
    const n = numLanes(dst);
    const b = m.lanes(second as VecOrMem, n);
    m.setLanes(
      dst as Vec,
      m.lanes(first as Vec, n).map((x, lane) => op(x, b[lane]!)),
    );
  };

/** dst = ±(a * dst) ± c, with the sign of each lane's terms. */
const fused213 =
  (signOfProduct: 1 | -1, signOfSum: (lane: number) => 1 | -1): Semantics =>
  (m, operands) => {
    const n = numLanes(operands[0]);
    const [x, a, c] = operands.map((operand) => floatsOf(m.lanes(operand, n)));
    setFloats(
      m,
      operands[0],
      x!.map((value, lane) => fma32(signOfProduct * value, a![lane]!, signOfSum(lane) * c![lane]!)),
    );
  };

/** A part of so many lanes. */
const extract =
  (count: number): Semantics =>
  (m, [dst, source, imm]) => {
    const from = count * (imm as number);
    m.setLanes(dst as VecOrMem, m.lanes(source as Vec, numLanes(source)).slice(from, from + count));
  };

/** Lane 0 of the second source, the others of the first. */
const scalar =
  (op: (a: number, b: number) => number): Semantics =>
  (m, [dst, first, second]) => {
    const lanes = floatsOf(m.lanes(first as Vec, 4));
    lanes[0] = op(lanes[0]!, floatsOf(m.lanes(second as VecOrMem, 1))[0]!);
    setFloats(m, dst, lanes);
  };

/** Picks of two bits for each lane of 128 bits. */
const picked = (imm: number, lane: number) => lane - (lane % 4) + ((imm >> (2 * (lane % 4))) & 3);

export const packSemantics: Readonly<Record<string, Semantics>> = {
  vpackssdw: packSigned(Int32Array, Int16Array, 0x7fff),
  vpacksswb: packSigned(Int16Array, Int8Array, 0x7f),
  vpmaddubsw: (m, [dst, first, second]) => {
    const n = numLanes(dst);
    const a = new Uint8Array(m.lanes(first as Vec, n).buffer);
    const b = new Int8Array(m.lanes(second as VecOrMem, n).buffer);
    const sums = Int16Array.from({ length: 2 * n }, (_, i) => {
      const sum = a[2 * i]! * b[2 * i]! + a[2 * i + 1]! * b[2 * i + 1]!;
      return Math.min(0x7fff, Math.max(-0x8000, sum));
    });
    m.setLanes(dst as Vec, new Uint32Array(sums.buffer));
  },
  vpmaddwd: (m, [dst, first, second]) => {
    const n = numLanes(dst);
    const [a, b] = [first, second].map((operand) => wordsOf(m.lanes(operand as VecOrMem, n)));
    const sums = Int32Array.from({ length: n }, (_, i) => a![2 * i]! * b![2 * i]! + a![2 * i + 1]! * b![2 * i + 1]!);
    m.setLanes(dst as Vec, new Uint32Array(sums.buffer));
  },
  vpand: lanewise((x, y) => x & y),
  /** Larger magnitudes only. */
  vrangeps: (m, [dst, first, second, imm]) => {
    if (imm !== 0b1011) throw new Error(`vrangeps ${imm as number} is not interpreted`);
    const [a, b] = [first, second].map((operand) => floatsOf(m.lanes(operand as VecOrMem, numLanes(dst))));
    setFloats(
      m,
      dst,
      a!.map((x, lane) => Math.max(Math.abs(x), Math.abs(b![lane]!))),
    );
  },
  vfmsub213ps: fused213(1, () => -1),
  vfnmadd213ps: fused213(-1, () => 1),
  vfmaddsub213ps: fused213(1, (lane) => (lane % 2 === 0 ? -1 : 1)),
  vsqrtss: scalar((_, b) => Math.sqrt(b)),
  vdivss: scalar((a, b) => a / b),
  vcvtsi2ss: (m, [dst, first, source]) => {
    const lanes = floatsOf(m.lanes(first as Vec, 4));
    lanes[0] = Number(BigInt.asIntN((source as Gpr).bits, m.gpr(source as Gpr)));
    setFloats(m, dst, lanes);
  },
  vextractf32x4: extract(4),
  vextracti64x4: extract(8),
  vshufps: (m, [dst, first, second, imm]) => {
    const n = numLanes(dst);
    const [a, b] = [first, second].map((operand) => m.lanes(operand as VecOrMem, n));
    m.setLanes(
      dst as Vec,
      Uint32Array.from({ length: n }, (_, lane) => (lane % 4 < 2 ? a : b)![picked(imm as number, lane)]!),
    );
  },
  vpshufd: (m, [dst, source, imm]) => {
    const lanes = m.lanes(source as VecOrMem, numLanes(dst));
    m.setLanes(
      dst as Vec,
      lanes.map((_, lane) => lanes[picked(imm as number, lane)]!),
    );
  },
  vpermd: (m, [dst, indices, source]) => {
    const n = numLanes(dst);
    const lanes = m.lanes(source as VecOrMem, n);
    m.setLanes(
      dst as Vec,
      m.lanes(indices as Vec, n).map((index) => lanes[index % n]!),
    );
  },
  vpsrldq: (m, [dst, source, count]) => {
    const bytes = new Uint8Array(m.lanes(source as VecOrMem, numLanes(dst)).buffer);
    const shifted = bytes.map((_, i) => ((i % 16) + (count as number) < 16 ? bytes[i + (count as number)]! : 0));
    m.setLanes(dst as Vec, new Uint32Array(shifted.buffer));
  },
  vpmovzxdq: (m, [dst, source]) => {
    const n = numLanes(dst);
    const lanes = m.lanes(source as VecOrMem, n / 2);
    m.setLanes(
      dst as Vec,
      Uint32Array.from({ length: n }, (_, lane) => (lane % 2 === 0 ? lanes[lane / 2]! : 0)),
    );
  },
  vmovsldup: (m, [dst, source]) => {
    const lanes = m.lanes(source as VecOrMem, numLanes(dst));
    m.setLanes(
      dst as Vec,
      lanes.map((_, lane) => lanes[lane & ~1]!),
    );
  },
  vpbroadcastw: (m, [dst, source]) => {
    const word = m.lanes(source as VecOrMem, 1)[0]! & 0xffff;
    m.setLanes(dst as Vec, new Uint32Array(numLanes(dst)).fill(word | (word << 16)));
  },
};
