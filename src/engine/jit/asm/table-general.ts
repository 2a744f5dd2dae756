// Owns the general-register instructions as rows: one line each, after the Intel SDM volume 2 (https://www.intel.com/sdm).

/**
 * Order of the operands: r ModRM.reg, m ModRM.rm (register or memory), i immediate, cl the register cl.
 *
 * | form | operands | form | operands |
 * |---|---|---|---|
 * | alu | dst, src (register, memory or imm; one of them a register or imm) | m | dst/mem (digit) |
 * | rm  | dst, src/mem | rmi | dst, src/mem, imm |
 * | mr  | dst/mem, src | shift | dst/mem, imm or cl (digit) |
 * | bmi | dst, src/mem, count (VEX) | touch | mem (digit) |
 * | none | | | |
 */
export type GeneralForm = 'alu' | 'rm' | 'rmi' | 'mr' | 'm' | 'shift' | 'bmi' | 'touch' | 'none';

export interface GeneralRow<F extends GeneralForm = GeneralForm> {
  readonly form: F;
  /** Prefixes that stand before REX, then after REX the opcode. */
  readonly before: readonly number[];
  readonly opcode: readonly number[];
  /** Opcode extension in ModRM.reg; for `alu` the group number. */
  readonly digit: number;
  /** Bytes of a memory source where they differ from the destination's. */
  readonly sourceBytes?: 1 | 2 | 4;
  /** Source registers are named with this width in text. */
  readonly sourceBits?: 8 | 16 | 32;
  /** Mnemonic in text where the key differs. */
  readonly name?: string;
}

const row = <F extends GeneralForm>(
  form: F,
  opcode: readonly number[],
  more: Partial<Omit<GeneralRow, 'form' | 'opcode'>> = {},
): GeneralRow<F> => ({ form, opcode, before: [], digit: 0, ...more });
const group = <F extends GeneralForm>(form: F, opcode: readonly number[], digit: number): GeneralRow<F> =>
  row(form, opcode, { digit });

const lock = [0xf0] as const;
const rep = [0xf3] as const;

export const generalTable = {
  add: group('alu', [], 0),
  or: group('alu', [], 1),
  adc: group('alu', [], 2),
  sbb: group('alu', [], 3),
  and: group('alu', [], 4),
  sub: group('alu', [], 5),
  xor: group('alu', [], 6),
  cmp: group('alu', [], 7),
  imul: row('rm', [0x0f, 0xaf]),
  imul3: row('rmi', [0x69], { name: 'imul' }),
  lea: row('rm', [0x8d]),
  movzxb: row('rm', [0x0f, 0xb6], { name: 'movzx', sourceBytes: 1, sourceBits: 8 }),
  movzxw: row('rm', [0x0f, 0xb7], { name: 'movzx', sourceBytes: 2, sourceBits: 16 }),
  movsxb: row('rm', [0x0f, 0xbe], { name: 'movsx', sourceBytes: 1, sourceBits: 8 }),
  movsxw: row('rm', [0x0f, 0xbf], { name: 'movsx', sourceBytes: 2, sourceBits: 16 }),
  movsxd: row('rm', [0x63], { sourceBytes: 4, sourceBits: 32 }),
  bsf: row('rm', [0x0f, 0xbc]),
  bsr: row('rm', [0x0f, 0xbd]),
  tzcnt: row('rm', [0x0f, 0xbc], { before: rep }),
  lzcnt: row('rm', [0x0f, 0xbd], { before: rep }),
  popcnt: row('rm', [0x0f, 0xb8], { before: rep }),
  cmovb: row('rm', [0x0f, 0x42]),
  cmovae: row('rm', [0x0f, 0x43]),
  cmove: row('rm', [0x0f, 0x44]),
  cmovne: row('rm', [0x0f, 0x45]),
  cmovbe: row('rm', [0x0f, 0x46]),
  cmova: row('rm', [0x0f, 0x47]),
  cmovl: row('rm', [0x0f, 0x4c]),
  cmovge: row('rm', [0x0f, 0x4d]),
  cmovle: row('rm', [0x0f, 0x4e]),
  cmovg: row('rm', [0x0f, 0x4f]),
  test: row('mr', [0x85]),
  xchg: row('mr', [0x87]),
  lockXadd: row('mr', [0x0f, 0xc1], { before: lock, name: 'lock xadd' }),
  lockCmpxchg: row('mr', [0x0f, 0xb1], { before: lock, name: 'lock cmpxchg' }),
  inc: group('m', [0xff], 0),
  dec: group('m', [0xff], 1),
  not: group('m', [0xf7], 2),
  neg: group('m', [0xf7], 3),
  mul: group('m', [0xf7], 4),
  div: group('m', [0xf7], 6),
  idiv: group('m', [0xf7], 7),
  rol: group('shift', [], 0),
  ror: group('shift', [], 1),
  shl: group('shift', [], 4),
  shr: group('shift', [], 5),
  sar: group('shift', [], 7),
  shlx: row('bmi', [0xf7], { digit: 1 }),
  sarx: row('bmi', [0xf7], { digit: 2 }),
  shrx: row('bmi', [0xf7], { digit: 3 }),
  prefetchnta: group('touch', [0x0f, 0x18], 0),
  prefetcht0: group('touch', [0x0f, 0x18], 1),
  prefetcht1: group('touch', [0x0f, 0x18], 2),
  prefetcht2: group('touch', [0x0f, 0x18], 3),
  cdq: row('none', [0x99]),
  cqo: row('none', [0x48, 0x99]),
  cpuid: row('none', [0x0f, 0xa2]),
  rdtsc: row('none', [0x0f, 0x31]),
  pause: row('none', [0xf3, 0x90]),
  mfence: row('none', [0x0f, 0xae, 0xf0]),
  sfence: row('none', [0x0f, 0xae, 0xf8]),
  syscall: row('none', [0x0f, 0x05]),
  ud2: row('none', [0x0f, 0x0b]),
  ret: row('none', [0xc3]),
} as const;

export type GeneralMnemonic = keyof typeof generalTable;

/** Condition codes of jumps, as they stand in the low bits of the opcode. */
export const conditions = {
  jo: 0,
  jno: 1,
  jb: 2,
  jae: 3,
  je: 4,
  jne: 5,
  jbe: 6,
  ja: 7,
  js: 8,
  jns: 9,
  jl: 12,
  jge: 13,
  jle: 14,
  jg: 15,
} as const;

export type Condition = keyof typeof conditions;
