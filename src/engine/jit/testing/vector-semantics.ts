// Owns what vector instructions do to lanes of 32 bits, for the interpreter.
import { invariant } from '../../../common/errors.ts';
import type { Mem, Operand } from '../asm/operands.ts';
import type { Gpr, Mask, Vec } from '../asm/registers.ts';
import { fma32 } from '../kernels/float.ref.ts';
import { packSemantics } from './pack-semantics.ts';
import { shuffleSemantics } from './shuffle-semantics.ts';

/** The interpreter as vector instructions see it. */
export interface VectorMachine {
  /** The first `numLanes` of a vector register or of memory; a copy. */
  lanes(operand: Operand, numLanes: number): Uint32Array;
  /** Into memory, or into a vector register under its opmask, clearing what lies above. */
  setLanes(operand: Operand, values: Uint32Array): void;
  gpr(register: Gpr): bigint;
  setGpr(register: Gpr, value: bigint): void;
  mask(register: Mask): number;
  setMask(register: Mask, bits: number): void;
  setFlags(carry: boolean, zero: boolean): void;
}

type Semantics = (m: VectorMachine, operands: readonly Operand[]) => void;

type Floats = Float32Array<ArrayBuffer>;
const floats = (lanes: Uint32Array) => new Float32Array(lanes.buffer);
const signed = (lanes: Uint32Array) => new Int32Array(lanes.buffer);
const bitsOf = (values: Float32Array | Int32Array) => new Uint32Array(values.buffer);
const at = (operands: readonly Operand[], index: number): Operand => {
  const operand = operands[index];
  invariant(operand !== undefined, 'too few operands');
  return operand;
};

/** Lanes of the first vector register among the operands. */
function numLanesOf(operands: readonly Operand[]): number {
  const vector = operands.find((operand): operand is Vec => typeof operand === 'object' && operand.kind === 'vec');
  invariant(vector, 'a vector instruction names a vector');
  return vector.bits / 32;
}

const floatBinary =
  (op: (a: number, b: number) => number): Semantics =>
  (m, operands) => {
    const n = numLanesOf(operands);
    const [a, b] = [floats(m.lanes(at(operands, 1), n)), floats(m.lanes(at(operands, 2), n))];
    m.setLanes(at(operands, 0), bitsOf(a.map((x, lane) => op(x, b[lane]!))));
  };

/** Lane 0 is computed, lanes 1 to 3 come from the first source. */
const floatScalar =
  (op: (a: number, b: number) => number): Semantics =>
  (m, operands) => {
    const [a, b] = [floats(m.lanes(at(operands, 1), 4)), floats(m.lanes(at(operands, 2), 1))];
    a[0] = op(a[0]!, b[0]!);
    m.setLanes(at(operands, 0), bitsOf(a));
  };

const integerBinary =
  (op: (a: number, b: number) => number): Semantics =>
  (m, operands) => {
    const n = numLanesOf(operands);
    const [a, b] = [signed(m.lanes(at(operands, 1), n)), signed(m.lanes(at(operands, 2), n))];
    m.setLanes(at(operands, 0), bitsOf(a.map((x, lane) => op(x, b[lane]!))));
  };

const byteBinary =
  (op: (a: number, b: number) => number): Semantics =>
  (m, operands) => {
    const n = numLanesOf(operands);
    const [a, b] = [1, 2].map((i) => new Uint8Array(m.lanes(at(operands, i), n).buffer)) as [Uint8Array, Uint8Array];
    m.setLanes(at(operands, 0), new Uint32Array(a.map((x, lane) => op(x, b[lane]!)).buffer));
  };

const integerShift =
  (op: (a: number, count: number) => number): Semantics =>
  (m, operands) => {
    const a = signed(m.lanes(at(operands, 1), numLanesOf(operands)));
    m.setLanes(at(operands, 0), bitsOf(a.map((x) => op(x, at(operands, 2) as number))));
  };

/** dst lane i = source lane `pick(i)`. */
const shuffle =
  (pick: (lane: number) => number, numRead = 16): Semantics =>
  (m, operands) => {
    const n = numLanesOf(operands);
    const source = m.lanes(at(operands, 1), Math.min(n, numRead));
    m.setLanes(
      at(operands, 0),
      Uint32Array.from({ length: n }, (_, lane) => source[pick(lane)]!),
    );
  };

const extract =
  (numLanes: number): Semantics =>
  (m, operands) => {
    const part = at(operands, 2) as number;
    m.setLanes(at(operands, 0), m.lanes(at(operands, 1), numLanes * (part + 1)).slice(numLanes * part));
  };

function floatPredicate(imm: number): (a: number, b: number) => boolean {
  const predicates: Readonly<Record<number, (a: number, b: number) => boolean>> = {
    0: (a, b) => a === b,
    2: (a, b) => a <= b,
    13: (a, b) => a >= b,
    14: (a, b) => a > b,
  };
  const predicate = predicates[imm];
  invariant(predicate, `predicate ${imm} is not interpreted`);
  return predicate;
}

function compareToMask(a: ArrayLike<number>, b: ArrayLike<number>, holds: (x: number, y: number) => boolean): number {
  let bits = 0;
  for (let lane = 0; lane < a.length; lane++) if (holds(a[lane]!, b[lane]!)) bits |= 1 << lane;
  return bits;
}

/** The second operand wins on NaN and on zeros of either sign. */
const max = (a: number, b: number) => (a > b ? a : b);
const min = (a: number, b: number) => (a < b ? a : b);
const add = (a: number, b: number) => a + b;
const subtract = (a: number, b: number) => a - b;
const multiply = (a: number, b: number) => a * b;
const and = (a: number, b: number) => a & b;
const andNot = (a: number, b: number) => ~a & b;
const xor = (a: number, b: number) => a ^ b;
const truncated = (x: number) => (x >= -(2 ** 31) && x < 2 ** 31 ? Math.trunc(x) : -(2 ** 31));
const copy: Semantics = (m, operands) => m.setLanes(at(operands, 0), m.lanes(at(operands, 1), numLanesOf(operands)));

export const vectorSemantics: Readonly<Record<string, Semantics>> = {
  ...shuffleSemantics,
  ...packSemantics,
  vmovups: copy,
  vmovaps: copy,
  vmovss: (m, operands) => m.setLanes(at(operands, 0), m.lanes(at(operands, 1), 1)),
  vmovd: (m, [dst, source]) => {
    if ((source as Mem).kind === 'mem') m.setLanes(dst!, m.lanes(source!, 1));
    else if ((dst as Vec).kind === 'vec')
      m.setLanes(dst!, Uint32Array.of(Number(BigInt.asUintN(32, m.gpr(source as Gpr)))));
    else if ((dst as Mem).kind === 'mem') m.setLanes(dst!, m.lanes(source!, 1));
    else m.setGpr(dst as Gpr, BigInt(m.lanes(source!, 1)[0]!));
  },
  vbroadcastss: shuffle(() => 0, 1),
  vpbroadcastd: shuffle(() => 0, 1),
  vmovshdup: shuffle((lane) => lane | 1),
  vmovhlps: (m, operands) => {
    const [a, b] = [m.lanes(at(operands, 1), 4), m.lanes(at(operands, 2), 4)];
    m.setLanes(at(operands, 0), Uint32Array.of(b[2]!, b[3]!, a[2]!, a[3]!));
  },
  vextractf128: extract(4),
  vextractf64x4: extract(8),

  vaddps: floatBinary(add),
  vsubps: floatBinary(subtract),
  vmulps: floatBinary(multiply),
  vdivps: floatBinary((a, b) => a / b),
  vfmadd231ps: (m, operands) => {
    const n = numLanesOf(operands);
    const [c, a, b] = [0, 1, 2].map((i) => floats(m.lanes(at(operands, i), n))) as [Floats, Floats, Floats];
    m.setLanes(at(operands, 0), bitsOf(c.map((value, lane) => fma32(a[lane]!, b[lane]!, value))));
  },
  vfmadd213ps: (m, operands) => {
    const n = numLanesOf(operands);
    const [a, b, c] = [0, 1, 2].map((i) => floats(m.lanes(at(operands, i), n))) as [Floats, Floats, Floats];
    m.setLanes(at(operands, 0), bitsOf(c.map((value, lane) => fma32(a[lane]!, b[lane]!, value))));
  },
  vfnmadd231ps: (m, operands) => {
    const n = numLanesOf(operands);
    const [c, a, b] = [0, 1, 2].map((i) => floats(m.lanes(at(operands, i), n))) as [Floats, Floats, Floats];
    m.setLanes(at(operands, 0), bitsOf(c.map((value, lane) => fma32(-a[lane]!, b[lane]!, value))));
  },
  vmaxps: floatBinary(max),
  vminps: floatBinary(min),
  vaddss: floatScalar(add),
  vsubss: floatScalar(subtract),
  vmulss: floatScalar(multiply),
  vmaxss: floatScalar(max),
  vminss: floatScalar(min),
  vandps: integerBinary(and),
  vandnps: integerBinary(andNot),
  vorps: integerBinary((a, b) => a | b),
  vpor: integerBinary((a, b) => a | b),
  vpsubb: byteBinary((a, b) => a - b),
  vxorps: integerBinary(xor),
  vpxor: integerBinary(xor),
  vpandd: integerBinary(and),
  vpxord: integerBinary(xor),
  vpaddd: integerBinary(add),
  vpsubd: integerBinary(subtract),
  vpmulld: integerBinary(Math.imul),
  vpminsd: integerBinary(min),
  vpmaxud: integerBinary((a, b) => max(a >>> 0, b >>> 0)),
  vpcmpgtd: integerBinary((a, b) => (a > b ? -1 : 0)),
  vpslld: integerShift((a, count) => a << count),
  vpsrlvd: integerBinary((a, count) => (count >>> 0 > 31 ? 0 : a >>> count)),
  vpsrld: integerShift((a, count) => a >>> count),
  vpsrad: integerShift((a, count) => a >> count),
  vpsrlw: integerShift((a, count) => ((a >>> (16 + count)) << 16) | ((a & 0xffff) >>> count)),
  vpternlogd: (m, operands) => {
    const n = numLanesOf(operands);
    const [a, b, c] = [0, 1, 2].map((i) => m.lanes(at(operands, i), n)) as [Uint32Array, Uint32Array, Uint32Array];
    /** Bits where the three are those of the row of the truth table. */
    const matches = (row: number, lane: number) =>
      (row & 4 ? a[lane]! : ~a[lane]!) & (row & 2 ? b[lane]! : ~b[lane]!) & (row & 1 ? c[lane]! : ~c[lane]!);
    const rows = Array.from({ length: 8 }, (_, row) => row).filter((row) => ((operands[3] as number) >> row) & 1);
    m.setLanes(
      at(operands, 0),
      a.map((_, lane) => rows.reduce((bits, row) => bits | matches(row, lane), 0)),
    );
  },
  vpsllw: integerShift((a, count) => (((a >>> 16) << (16 + count)) | ((a << count) & 0xffff)) >>> 0),
  vpdpbusd: (m, operands) => {
    const n = numLanesOf(operands);
    const sums = signed(m.lanes(at(operands, 0), n));
    const unsignedBytes = new Uint8Array(m.lanes(at(operands, 1), n).buffer);
    const signedBytes = new Int8Array(m.lanes(at(operands, 2), n).buffer);
    for (const [i, byte] of unsignedBytes.entries()) sums[i >> 2]! += byte * signedBytes[i]!;
    m.setLanes(at(operands, 0), bitsOf(sums));
  },
  vcvtph2ps: (m, operands) => {
    const halves = new Float16Array(m.lanes(at(operands, 1), numLanesOf(operands) / 2).buffer);
    m.setLanes(at(operands, 0), bitsOf(Float32Array.from(halves)));
  },
  vcvtdq2ps: (m, operands) => {
    const source = signed(m.lanes(at(operands, 1), numLanesOf(operands)));
    m.setLanes(at(operands, 0), bitsOf(Float32Array.from(source)));
  },
  vcvttps2dq: (m, operands) => {
    const source = floats(m.lanes(at(operands, 1), numLanesOf(operands)));
    m.setLanes(at(operands, 0), bitsOf(Int32Array.from(source, truncated)));
  },

  vcmpps: (m, operands) => {
    const n = numLanesOf(operands);
    const holds = floatPredicate(at(operands, 3) as number);
    const [a, b] = [floats(m.lanes(at(operands, 1), n)), floats(m.lanes(at(operands, 2), n))];
    m.setLanes(
      at(operands, 0),
      Uint32Array.from(a, (x, lane) => (holds(x, b[lane]!) ? 0xffff_ffff : 0)),
    );
  },
  vblendvps: (m, operands) => {
    const n = numLanesOf(operands);
    const [a, b, choice] = [1, 2, 3].map((i) => m.lanes(at(operands, i), n)) as [Uint32Array, Uint32Array, Uint32Array];
    m.setLanes(
      at(operands, 0),
      a.map((x, lane) => (choice[lane]! >>> 31 ? b[lane]! : x)),
    );
  },
  vmovmskps: (m, operands) => {
    const lanes = m.lanes(at(operands, 1), numLanesOf(operands));
    m.setGpr(operands[0] as Gpr, BigInt(compareToMask(lanes, lanes, (x) => x >>> 31 === 1)));
  },
  vucomiss: (m, operands) => {
    const [a, b] = [floats(m.lanes(at(operands, 0), 1))[0]!, floats(m.lanes(at(operands, 1), 1))[0]!];
    const isUnordered = a !== a || b !== b;
    m.setFlags(isUnordered || a < b, isUnordered || a === b);
  },
  vcmppsMask: (m, operands) => {
    const n = numLanesOf(operands);
    const [a, b] = [floats(m.lanes(at(operands, 1), n)), floats(m.lanes(at(operands, 2), n))];
    m.setMask(operands[0] as Mask, compareToMask(a, b, floatPredicate(at(operands, 3) as number)));
  },
  vpcmpd: (m, operands) => {
    const n = numLanesOf(operands);
    invariant(operands[3] === 2, 'only less or equal is interpreted');
    const [a, b] = [signed(m.lanes(at(operands, 1), n)), signed(m.lanes(at(operands, 2), n))];
    m.setMask(
      operands[0] as Mask,
      compareToMask(a, b, (x, y) => x <= y),
    );
  },
  kandw: (m, operands) => m.setMask(operands[0] as Mask, m.mask(operands[1] as Mask) & m.mask(operands[2] as Mask)),
  kmovw: (m, operands) => m.setGpr(operands[0] as Gpr, BigInt(m.mask(operands[1] as Mask))),
  // Nothing reads the upper halves afterwards.
  vzeroupper: () => {},
};
