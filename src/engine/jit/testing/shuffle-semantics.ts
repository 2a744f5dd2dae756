// Owns what vector instructions do that move elements about or change their size, for the interpreter.
import type { Mem, Operand, VecOrMem } from '../asm/operands.ts';
import type { Vec } from '../asm/registers.ts';
import type { VectorMachine } from './vector-semantics.ts';

type Semantics = (m: VectorMachine, operands: readonly Operand[]) => void;

const LANES_PER_128 = 4;
const numLanes = (operand: Operand | undefined): number => (operand as Vec).bits / 32;

/** Takes elements in turn from the lower or upper half of each 128 bits of both sources. */
const interleave =
  (elementBytes: 2 | 4 | 8, isHigh: boolean): Semantics =>
  (m, [dst, first, second]) => {
    const n = numLanes(dst);
    const sources = [first, second].map((operand) => new Uint16Array(m.lanes(operand as VecOrMem, n).buffer));
    const perElement = elementBytes / 2;
    const result = Uint16Array.from({ length: 2 * n }, (_, at) => {
      const element = Math.floor((at % 8) / perElement);
      const from = at - (at % 8) + (isHigh ? 4 : 0) + (element >> 1) * perElement + (at % perElement);
      return sources[element & 1]?.[from] ?? 0;
    });
    m.setLanes(dst as Vec, new Uint32Array(result.buffer));
  };

/** One element of an xmm register, to memory. */
const extract =
  (elementBytes: 1 | 2 | 4): Semantics =>
  (m, [dst, source, imm]) => {
    const from = new Uint8Array(m.lanes(source as Vec, LANES_PER_128).buffer);
    const lane = m.lanes(dst as Mem, 1);
    const at = (imm as number) * elementBytes;
    new Uint8Array(lane.buffer).set(from.subarray(at, at + elementBytes));
    m.setLanes(dst as Mem, lane);
  };

type Narrow = typeof Uint8Array | typeof Int8Array | typeof Uint16Array;

/** Elements of 1 or 2 bytes become 32-bit integers. */
const widen =
  (Elements: Narrow): Semantics =>
  (m, [dst, source]) => {
    const n = numLanes(dst);
    const bytes = m.lanes(source as VecOrMem, (n * Elements.BYTES_PER_ELEMENT) / 4);
    const elements = new Elements(bytes.buffer as ArrayBuffer);
    m.setLanes(
      dst as Vec,
      Uint32Array.from({ length: n }, (_, lane) => elements[lane]!),
    );
  };

/** Rounds to the nearest integer, ties to even. */
function roundHalfToEven(x: number): number {
  const floor = Math.floor(x);
  return x - floor === 0.5 ? floor + (floor & 1) : Math.round(x);
}

export const shuffleSemantics: Readonly<Record<string, Semantics>> = {
  vmovdqu: (m, [dst, source]) => {
    const register = [dst, source].find((operand) => (operand as VecOrMem).kind === 'vec');
    m.setLanes(dst as VecOrMem, m.lanes(source as VecOrMem, numLanes(register)));
  },
  vpmovzxbd: widen(Uint8Array),
  vpmovsxbd: widen(Int8Array),
  vpmovzxwd: widen(Uint16Array),
  vpshufb: (m, [dst, table, indices]) => {
    const n = numLanes(dst);
    const [from, pick] = [table, indices].map((operand) => new Uint8Array(m.lanes(operand as VecOrMem, n).buffer));
    const bytes = Uint8Array.from(pick!, (index, at) => (index & 0x80 ? 0 : from![at - (at % 16) + (index & 15)]!));
    m.setLanes(dst as Vec, new Uint32Array(bytes.buffer));
  },
  vpunpcklwd: interleave(2, false),
  vpunpckhwd: interleave(2, true),
  vpunpckldq: interleave(4, false),
  vpunpckhdq: interleave(4, true),
  vpunpcklqdq: interleave(8, false),
  vpunpckhqdq: interleave(8, true),
  vunpcklps: interleave(4, false),
  vunpckhps: interleave(4, true),
  vunpcklpd: interleave(8, false),
  vunpckhpd: interleave(8, true),
  vpermilps: (m, [dst, source, imm]) => {
    const lanes = m.lanes(source as VecOrMem, numLanes(dst));
    const pick = (at: number) => at - (at % 4) + (((imm as number) >> (2 * (at % 4))) & 3);
    m.setLanes(
      dst as Vec,
      lanes.map((_, at) => lanes[pick(at)]!),
    );
  },
  vperm2f128: (m, [dst, first, second, imm]) => {
    const sources = [first, second].map((operand) => m.lanes(operand as VecOrMem, 8));
    const half = (choice: number) => {
      const start = (choice & 1) * LANES_PER_128;
      return sources[(choice >> 1) & 1]!.slice(start, start + LANES_PER_128);
    };
    m.setLanes(dst as Vec, Uint32Array.from([...half(imm as number), ...half((imm as number) >> 4)]));
  },
  vinserti128: (m, [dst, first, second, imm]) => {
    const lanes = m.lanes(first as Vec, numLanes(dst));
    lanes.set(m.lanes(second as VecOrMem, LANES_PER_128), LANES_PER_128 * (imm as number));
    m.setLanes(dst as Vec, lanes);
  },
  vextracti128: (m, [dst, source, imm]) => {
    const start = LANES_PER_128 * (imm as number);
    m.setLanes(dst as VecOrMem, m.lanes(source as Vec, numLanes(source)).slice(start, start + LANES_PER_128));
  },
  vpextrb: extract(1),
  vpextrw: extract(2),
  vpextrd: extract(4),
  vcvtps2ph: (m, [dst, source]) => {
    const values = new Float32Array(m.lanes(source as Vec, numLanes(source)).buffer);
    m.setLanes(dst as VecOrMem, new Uint32Array(Float16Array.from(values).buffer));
  },
  vcvtps2dq: (m, [dst, source]) => {
    const values = new Float32Array(m.lanes(source as VecOrMem, numLanes(dst)).buffer);
    m.setLanes(dst as Vec, new Uint32Array(Int32Array.from(values, roundHalfToEven).buffer));
  },
};
