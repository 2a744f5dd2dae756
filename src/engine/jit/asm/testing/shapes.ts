// Owns the operand shapes in which tests assemble every row of the instruction tables.
import { createAssembler } from '../assembler.ts';
import { broadcast, type Mem, mem, type Operand, sized } from '../operands.ts';
import type { Instruction } from '../program.ts';
import {
  type Gpr,
  k,
  masked,
  r8,
  r9,
  r12,
  r13,
  r15,
  r32,
  rax,
  rbp,
  rbx,
  rcx,
  rdx,
  rsi,
  rsp,
  type Vec,
} from '../registers.ts';
import { type GeneralRow, generalTable } from '../table-general.ts';
import { type VectorRow, vectorTable } from '../table.ts';

type Bits = Vec['bits'];
const vec = (id: number, bits: Bits): Vec => ({ kind: 'vec', id, bits });

/** Bases that need a SIB byte or a displacement, and displacements of 0, 8 and 32 bits. */
const places: readonly Mem[] = [
  mem(rax),
  mem(rbp),
  mem(r13, 8),
  mem(rsp, -64),
  mem(r12, 64, { index: r9, scale: 4 }),
  mem(rbx, 0x12340, { index: rcx, scale: 8 }),
];
/** Displacements that EVEX compresses, and ones that it cannot. */
const evexPlaces: readonly Mem[] = [mem(r15, 128), mem(rax, 64 * 100), mem(rbp, -32), mem(rsi, 4), mem(rdx, 127)];

/** Rows that exist for 256 bits and more only, and those for 128 only. */
const wideOnly = new Set(
  'vperm2f128 vperm2i128 vpermps vpermd vpermq vpermpd vshuff32x4 vshufi32x4 vbroadcastf128 vbroadcasti128 vbroadcastf32x4 vbroadcasti32x4 vbroadcastsd'.split(
    ' ',
  ),
);
const narrowOnly = new Set('vmovhlps vmovlhps'.split(' '));
const registersOnly = new Set('vmovhlps vmovlhps vmovmskps vpmovmskb'.split(' '));
const memoryOnly = new Set(
  'vbroadcastf128 vbroadcasti128 vbroadcastf32x4 vbroadcasti32x4 vmovntps vmovss vmovsd vpextrb vpextrw vpextrd'.split(
    ' ',
  ),
);
/** A comparison's mask or a scalar takes no destination mask here; these stay unmasked. */
const unmasked = new Set('vmovhlps vmovlhps vmovntps vmovd vmovq vucomiss vucomisd vpmovm2d'.split(' '));

function widths(key: string, row: VectorRow, isEvex: boolean): Bits[] {
  const isScalar = typeof row.tuple === 'number' && row.tuple <= 8 && row.mixed === undefined;
  if (isScalar || narrowOnly.has(key) || key.startsWith('vpextr')) return [128];
  if (/^vinsert|^vextract/.test(key)) {
    if (/64x4/.test(key)) return [512];
    return isEvex ? [256, 512] : [256];
  }
  return ([128, 256, 512] as const).filter((bits) => (isEvex || bits < 512) && (bits > 128 || !wideOnly.has(key)));
}

/** Width of the narrow side of a row that mixes widths. */
function narrowBits(key: string, row: VectorRow, bits: Bits): Bits {
  if (row.tuple === 32 || key === 'vcvtneps2bf16') return bits === 512 ? 256 : 128;
  if ((row.tuple === 'half' || row.tuple === 'half32') && bits === 512) return 256;
  return 128;
}

/** Operand lists of one vector row, for the VEX or the EVEX encoding. */
function vectorShapes(key: string, row: VectorRow, isEvex: boolean): Operand[][] {
  const out: Operand[][] = [];
  const bases = isEvex ? [17, 8] : [0, 8];
  for (const bits of widths(key, row, isEvex)) {
    for (const base of bases) {
      const v = (index: number, width: Bits = bits) =>
        vec((base + 3 * index + (index === 2 ? 8 : 0)) % (isEvex ? 32 : 16), width);
      const narrow = row.mixed ? narrowBits(key, row, bits) : bits;
      const canBroadcast = isEvex && /^full|^half32/.test(String(row.tuple));
      const memories = [...places, ...(isEvex ? evexPlaces : []), ...(canBroadcast ? [broadcast(mem(r9, 8))] : [])];
      // One memory shape per register base keeps the list short but covers all of them.
      const picked = registersOnly.has(key) ? [] : base === bases[0] ? memories : memories.slice(0, 2);
      const sources = (register: Vec): Operand[] => [...(memoryOnly.has(key) ? [] : [register]), ...picked];
      const destinations: Vec[] = [v(0)];
      const canMask = isEvex && !unmasked.has(key);
      const guardedForms = ['rvm', 'rvmi', 'rm', 'rmi', 'rr'];
      if (canMask && guardedForms.includes(row.form)) destinations.push(masked(v(0), k(1)), masked(v(0), k(7), true));
      switch (row.form) {
        case 'rvm':
          for (const d of destinations) for (const s of sources(v(2))) out.push([d, v(1), s]);
          break;
        case 'rvmi':
          for (const d of destinations) for (const s of sources(v(2, narrow))) out.push([d, v(1), s, 1]);
          break;
        case 'rvmr':
          for (const s of sources(v(2))) out.push([v(0), v(1), s, v(3)]);
          break;
        case 'rr':
          for (const d of destinations) out.push([{ ...d, bits: narrow }, v(1)]);
          break;
        case 'rm':
          for (const d of destinations) for (const s of sources(v(1, narrow))) out.push([d, s]);
          break;
        case 'rmi':
          for (const d of destinations) for (const s of sources(v(1))) out.push([d, s, 4]);
          break;
        case 'mov':
          if (!memoryOnly.has(key)) out.push([v(0), v(1)], [vec(1, bits), vec(9, bits)]);
          for (const place of picked) out.push([v(0), place], [place, v(0)]);
          break;
        case 'mr':
          for (const d of sources(v(1, row.mixed ? narrowDestination(row, bits) : bits))) out.push([d, v(0)]);
          break;
        case 'mri':
          for (const d of sources(v(1, narrow))) out.push([d, v(0), 1]);
          break;
        case 'vmi':
          for (const s of isEvex ? sources(v(1)) : [v(1)]) out.push([v(0), s, 5]);
          break;
        case 'kvm':
          for (const s of sources(v(2))) out.push([k(3), v(1), s]);
          break;
        case 'kvmi':
          for (const s of sources(v(2))) out.push([k(3), v(1), s, 6]);
          break;
        case 'km':
          out.push([k(2), v(1)]);
          break;
        case 'rk':
          out.push([v(0), k(2)]);
          break;
        case 'gm':
          for (const g of key.startsWith('vcvt') ? [r32(r9), rax] : [r32(r9)])
            for (const s of sources(v(1))) out.push([g, s]);
          break;
        case 'rvg':
          for (const s of [r32(r9), rax, ...picked]) out.push([v(0), v(1), s]);
          break;
        case 'movd': {
          const general = key === 'vmovq' ? r9 : r32(r9);
          out.push([v(0), general], [general, v(0)]);
          if (key === 'vmovd') for (const place of picked) out.push([v(0), place], [place, v(0)]);
          break;
        }
        case 'kkk':
          out.push([k(1), k(2), k(7)]);
          break;
        case 'kk':
          out.push([k(1), k(6)]);
          break;
        case 'kmov':
          out.push([k(1), r32(r9)], [r32(rax), k(2)]);
          break;
        case 'none':
          out.push([]);
          break;
      }
    }
  }
  return out;
}

const narrowDestination = (row: VectorRow, bits: Bits): Bits => (row.tuple === 'half' && bits === 512 ? 256 : 128);

function generalShapes(key: string, row: GeneralRow): Operand[][] {
  const out: Operand[][] = [];
  const pairs: [Gpr, Gpr][] = [
    [rax, rcx],
    [r8, rsi],
    [r32(rbx), r32(r9)],
    [r12, r15],
  ];
  switch (row.form) {
    case 'alu':
      for (const [a, b] of pairs) out.push([a, b]);
      for (const place of places) out.push([r9, place], [place, r32(rdx)], [sized(place, 8), 5]);
      for (const value of [1, -128, 127, 128, -70000]) out.push([rax, value], [r32(rax), value], [r13, value]);
      break;
    case 'rm':
      if (key !== 'lea') for (const [a, b] of pairs) out.push([a, b]);
      for (const place of places) out.push([r9, place]);
      break;
    case 'rmi':
      for (const [a, b] of pairs) out.push([a, b, 100], [a, b, 1000]);
      for (const place of places) out.push([r9, place, 3]);
      break;
    case 'mr':
      if (!row.before.includes(0xf0) && key !== 'xchg') for (const [a, b] of pairs) out.push([a, b]);
      for (const place of places) out.push([place, r9], [place, r32(rdx)]);
      break;
    case 'm':
      out.push([rax], [r32(r9)], [sized(mem(rsp, 8), 8)], [sized(mem(r13), 4)]);
      break;
    case 'shift':
      out.push([rax, 1], [r9, 31], [r32(r10), rcx], [sized(mem(rsp, 8), 4), 3]);
      break;
    case 'bmi':
      out.push([rax, rcx, rdx], [r9, mem(r13, 4), r15], [r32(r9), r32(rax), r32(r12)]);
      break;
    case 'touch':
      for (const place of places) out.push([place]);
      break;
    case 'none':
      out.push([]);
  }
  return out;
}

const r10 = { kind: 'gpr', id: 10, bits: 64 } as const;

/** All instructions that tests assemble for one key of the tables. */
export function instructionsOf(key: string): Instruction[] {
  const a = createAssembler();
  const call = (a as unknown as Record<string, (...operands: Operand[]) => void>)[key];
  const shapes: Operand[][] = [];
  if (key in generalTable) shapes.push(...generalShapes(key, generalTable[key as keyof typeof generalTable]));
  else {
    const row: VectorRow = vectorTable[key as keyof typeof vectorTable];
    if (row.vexW !== undefined) shapes.push(...vectorShapes(key, row, false));
    if (row.evexW !== undefined) shapes.push(...vectorShapes(key, row, true));
  }
  for (const operands of shapes) call?.apply(a, operands);
  return a.items.filter((item) => item.kind === 'instruction');
}

/** Instructions outside the tables: `mov`, `push`, `pop`, `set`. */
export function otherInstructions(): Instruction[] {
  const a = createAssembler();
  for (const place of places) {
    a.mov(r9, place);
    a.mov(place, rdx);
    a.mov(r32(rdx), place);
    a.mov(sized(place, 8), -7);
    a.mov(sized(place, 4), 7);
  }
  for (const value of [0, 1, -1, 0x7fff_ffff, 0x1234_5678_9abc]) a.mov(r12, value);
  a.mov(r32(r9), 5);
  a.mov(rax, r15);
  a.mov(r32(r9), r32(rcx));
  for (const register of [rax, rbp, r8, r15]) {
    a.push(register);
    a.pop(register);
  }
  for (const register of [rax, r12]) a.callRegister(register);
  for (const register of [rax, rsi, r9]) a.set('jae', { ...register, bits: 8 });
  return a.items.filter((item) => item.kind === 'instruction');
}

export const allKeys: readonly string[] = [...Object.keys(vectorTable), ...Object.keys(generalTable)];
