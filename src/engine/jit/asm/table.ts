// Owns the vector instructions as rows: one line each, after the Intel SDM volume 2 (https://www.intel.com/sdm).

/** Mandatory prefix: none, 66, F3, F2. */
export type Prefix = 0 | 1 | 2 | 3;
/** Opcode map: 0F, 0F38, 0F3A. */
export type OpcodeMap = 1 | 2 | 3;

/**
 * Order of the operands, and where each goes: r ModRM.reg, v VEX.vvvv, m ModRM.rm (register or memory), i immediate,
 * k opmask in ModRM.reg, g general register.
 *
 * | form | operands | form | operands |
 * |---|---|---|---|
 * | rvm  | dst, src1, src2/mem      | vmi  | dst, src/mem, imm (opcode digit in reg) |
 * | rvmi | dst, src1, src2/mem, imm | kvm, kvmi | mask, src1, src2/mem (, predicate) |
 * | rvmr | dst, src1, src2/mem, src3 | km | mask, src |
 * | rm, rmi | dst, src/mem (, imm); rr: no mem | rk | dst, mask |
 * | mov  | load `dst, src/mem` or store `mem, src` | gm | general dst, src/mem |
 * | mr, mri | dst/mem, src (, imm)  | rvg | dst, src1, general or mem |
 * | movd | vector and general register or mem, both ways | kkk, kk, kmov | masks; mask and general |
 */
export type Form =
  | 'rvm'
  | 'rvmi'
  | 'rvmr'
  | 'rr'
  | 'rm'
  | 'rmi'
  | 'mov'
  | 'mr'
  | 'mri'
  | 'vmi'
  | 'kvm'
  | 'kvmi'
  | 'km'
  | 'rk'
  | 'gm'
  | 'rvg'
  | 'movd'
  | 'kkk'
  | 'kk'
  | 'kmov'
  | 'none';

/**
 * How many bytes of memory the instruction touches, which is also the unit of EVEX's compressed displacement:
 * the whole vector with 32- or 64-bit broadcast (`full32`, `full64`), without (`all`), half of it with broadcast
 * (`half32`), without (`half`), a quarter, or a fixed number. `element32`: the whole vector, but displacements
 * count in 4 bytes (compress, expand).
 */
export type Tuple = 'full32' | 'full64' | 'all' | 'half32' | 'half' | 'quarter' | 'element32' | 1 | 2 | 4 | 8 | 16 | 32;

export interface VectorRow<F extends Form = Form> {
  readonly form: F;
  readonly prefix: Prefix;
  readonly map: OpcodeMap;
  readonly opcode: number;
  readonly tuple: Tuple;
  /** W bit of the VEX form; absent: there is none. */
  readonly vexW?: 0 | 1;
  /** W bit of the EVEX form; absent: there is none. */
  readonly evexW?: 0 | 1;
  /** Opcode of the store direction (form `mov`, `movd`). */
  readonly store?: number;
  /** Opcode extension in ModRM.reg (form `vmi`). */
  readonly digit?: number;
  /** Registers of different widths belong together (conversions, extracts, inserts). */
  readonly mixed?: true;
  /** Vector length bit that does not follow from the operands (opmask instructions). */
  readonly length?: 0 | 1;
  /** Mnemonic in text where the key differs: the same name has two forms. */
  readonly name?: string;
}

type More = Pick<VectorRow, 'store' | 'digit' | 'mixed' | 'length' | 'name'>;
const P = { none: 0, x66: 1, xF3: 2, xF2: 3 } as const;
const { none, x66, xF3, xF2 } = P;
const [M0F, M38, M3A] = [1, 2, 3] as const;
const mixed = { mixed: true } as const;

/** An instruction with both encodings; `evexW` differs from `vexW` only where the element is 64 bits wide. */
const both = <F extends Form>(
  form: F,
  prefix: Prefix,
  map: OpcodeMap,
  w: 0 | 1,
  opcode: number,
  tuple: Tuple,
  more: More & { vexW?: 0 | 1 } = {},
): VectorRow<F> => ({ form, prefix, map, opcode, tuple, evexW: w, vexW: w, ...more });

/** AVX, AVX2, FMA, F16C only. */
const vex = <F extends Form>(
  form: F,
  prefix: Prefix,
  map: OpcodeMap,
  w: 0 | 1,
  opcode: number,
  tuple: Tuple = 'all',
  more: More = {},
): VectorRow<F> => ({ form, prefix, map, opcode, tuple, vexW: w, ...more });

/** AVX-512 only. */
const evex = <F extends Form>(
  form: F,
  prefix: Prefix,
  map: OpcodeMap,
  w: 0 | 1,
  opcode: number,
  tuple: Tuple,
  more: More = {},
): VectorRow<F> => ({ form, prefix, map, opcode, tuple, evexW: w, ...more });

/** 64-bit elements: VEX ignores W (0), EVEX wants 1. */
const w1 = { vexW: 0 } as const;

export const vectorTable = {
  // Moves
  vmovups: both('mov', none, M0F, 0, 0x10, 'all', { store: 0x11 }),
  vmovaps: both('mov', none, M0F, 0, 0x28, 'all', { store: 0x29 }),
  vmovdqu: vex('mov', xF3, M0F, 0, 0x6f, 'all', { store: 0x7f }),
  vmovdqa: vex('mov', x66, M0F, 0, 0x6f, 'all', { store: 0x7f }),
  vmovdqu8: evex('mov', xF2, M0F, 0, 0x6f, 'all', { store: 0x7f }),
  vmovdqu16: evex('mov', xF2, M0F, 1, 0x6f, 'all', { store: 0x7f }),
  vmovdqu32: evex('mov', xF3, M0F, 0, 0x6f, 'all', { store: 0x7f }),
  vmovdqu64: evex('mov', xF3, M0F, 1, 0x6f, 'all', { store: 0x7f }),
  vmovdqa32: evex('mov', x66, M0F, 0, 0x6f, 'all', { store: 0x7f }),
  vmovntps: both('mr', none, M0F, 0, 0x2b, 'all'),
  vmovss: both('mov', xF3, M0F, 0, 0x10, 4, { store: 0x11 }),
  vmovsd: both('mov', xF2, M0F, 1, 0x10, 8, { store: 0x11, ...w1 }),
  vmovd: both('movd', x66, M0F, 0, 0x6e, 4, { store: 0x7e }),
  vmovq: both('movd', x66, M0F, 1, 0x6e, 8, { store: 0x7e }),
  vmovshdup: both('rm', xF3, M0F, 0, 0x16, 'all'),
  vmovsldup: both('rm', xF3, M0F, 0, 0x12, 'all'),
  vmovhlps: both('rvm', none, M0F, 0, 0x12, 'all'),
  vmovlhps: both('rvm', none, M0F, 0, 0x16, 'all'),
  vbroadcastss: both('rm', x66, M38, 0, 0x18, 4, mixed),
  vbroadcastsd: both('rm', x66, M38, 1, 0x19, 8, { ...mixed, ...w1 }),
  vbroadcastf128: vex('rm', x66, M38, 0, 0x1a, 16),
  vbroadcasti128: vex('rm', x66, M38, 0, 0x5a, 16),
  vbroadcastf32x4: evex('rm', x66, M38, 0, 0x1a, 16),
  vbroadcasti32x4: evex('rm', x66, M38, 0, 0x5a, 16),
  vpbroadcastb: both('rm', x66, M38, 0, 0x78, 1, mixed),
  vpbroadcastw: both('rm', x66, M38, 0, 0x79, 2, mixed),
  vpbroadcastd: both('rm', x66, M38, 0, 0x58, 4, mixed),
  vpbroadcastq: both('rm', x66, M38, 1, 0x59, 8, { ...mixed, ...w1 }),

  // Float arithmetic
  vaddps: both('rvm', none, M0F, 0, 0x58, 'full32'),
  vsubps: both('rvm', none, M0F, 0, 0x5c, 'full32'),
  vmulps: both('rvm', none, M0F, 0, 0x59, 'full32'),
  vdivps: both('rvm', none, M0F, 0, 0x5e, 'full32'),
  vminps: both('rvm', none, M0F, 0, 0x5d, 'full32'),
  vmaxps: both('rvm', none, M0F, 0, 0x5f, 'full32'),
  vsqrtps: both('rm', none, M0F, 0, 0x51, 'full32'),
  vaddss: both('rvm', xF3, M0F, 0, 0x58, 4),
  vsubss: both('rvm', xF3, M0F, 0, 0x5c, 4),
  vmulss: both('rvm', xF3, M0F, 0, 0x59, 4),
  vdivss: both('rvm', xF3, M0F, 0, 0x5e, 4),
  vminss: both('rvm', xF3, M0F, 0, 0x5d, 4),
  vmaxss: both('rvm', xF3, M0F, 0, 0x5f, 4),
  vsqrtss: both('rvm', xF3, M0F, 0, 0x51, 4),
  vaddpd: both('rvm', x66, M0F, 1, 0x58, 'full64', w1),
  vsubpd: both('rvm', x66, M0F, 1, 0x5c, 'full64', w1),
  vmulpd: both('rvm', x66, M0F, 1, 0x59, 'full64', w1),
  vdivpd: both('rvm', x66, M0F, 1, 0x5e, 'full64', w1),
  vminpd: both('rvm', x66, M0F, 1, 0x5d, 'full64', w1),
  vmaxpd: both('rvm', x66, M0F, 1, 0x5f, 'full64', w1),
  vaddsd: both('rvm', xF2, M0F, 1, 0x58, 8, w1),
  vsubsd: both('rvm', xF2, M0F, 1, 0x5c, 8, w1),
  vmulsd: both('rvm', xF2, M0F, 1, 0x59, 8, w1),
  vdivsd: both('rvm', xF2, M0F, 1, 0x5e, 8, w1),
  vhaddps: vex('rvm', xF2, M0F, 0, 0x7c),
  vfmadd132ps: both('rvm', x66, M38, 0, 0x98, 'full32'),
  vfmadd213ps: both('rvm', x66, M38, 0, 0xa8, 'full32'),
  vfmadd231ps: both('rvm', x66, M38, 0, 0xb8, 'full32'),
  vfmaddsub213ps: both('rvm', x66, M38, 0, 0xa6, 'full32'),
  vfmsub213ps: both('rvm', x66, M38, 0, 0xaa, 'full32'),
  vfmsub231ps: both('rvm', x66, M38, 0, 0xba, 'full32'),
  vfnmadd213ps: both('rvm', x66, M38, 0, 0xac, 'full32'),
  vfnmadd231ps: both('rvm', x66, M38, 0, 0xbc, 'full32'),
  vfmadd213ss: both('rvm', x66, M38, 0, 0xa9, 4),
  vfmadd231ss: both('rvm', x66, M38, 0, 0xb9, 4),
  vfmadd213pd: both('rvm', x66, M38, 1, 0xa8, 'full64'),
  vfmadd231pd: both('rvm', x66, M38, 1, 0xb8, 'full64'),
  vrcp14ps: evex('rm', x66, M38, 0, 0x4c, 'full32'),
  vroundps: vex('rmi', x66, M3A, 0, 0x08),
  vroundss: vex('rvmi', x66, M3A, 0, 0x0a, 4),
  vrndscaleps: evex('rmi', x66, M3A, 0, 0x08, 'full32'),
  vscalefps: evex('rvm', x66, M38, 0, 0x2c, 'full32'),
  vrangeps: evex('rvmi', x66, M3A, 0, 0x50, 'full32'),
  vgetexpps: evex('rm', x66, M38, 0, 0x42, 'full32'),
  vgetmantps: evex('rmi', x66, M3A, 0, 0x26, 'full32'),

  // Float logic, comparison, choice
  vandps: both('rvm', none, M0F, 0, 0x54, 'full32'),
  vandnps: both('rvm', none, M0F, 0, 0x55, 'full32'),
  vorps: both('rvm', none, M0F, 0, 0x56, 'full32'),
  vxorps: both('rvm', none, M0F, 0, 0x57, 'full32'),
  vcmpps: vex('rvmi', none, M0F, 0, 0xc2),
  vcmpss: vex('rvmi', xF3, M0F, 0, 0xc2, 4),
  vcmppsMask: evex('kvmi', none, M0F, 0, 0xc2, 'full32', { name: 'vcmpps' }),
  vucomiss: both('rm', none, M0F, 0, 0x2e, 4),
  vucomisd: both('rm', x66, M0F, 1, 0x2e, 8, w1),
  vblendvps: vex('rvmr', x66, M3A, 0, 0x4a),
  vblendps: vex('rvmi', x66, M3A, 0, 0x0c),
  vblendmps: evex('rvm', x66, M38, 0, 0x65, 'full32'),
  vpblendvb: vex('rvmr', x66, M3A, 0, 0x4c),
  vpblendd: vex('rvmi', x66, M3A, 0, 0x02),
  vpblendw: vex('rvmi', x66, M3A, 0, 0x0e),
  vpblendmd: evex('rvm', x66, M38, 0, 0x64, 'full32'),
  vmovmskps: vex('gm', none, M0F, 0, 0x50),
  vpmovmskb: vex('gm', x66, M0F, 0, 0xd7),
  vptest: vex('rm', x66, M38, 0, 0x17),
  vtestps: vex('rm', x66, M38, 0, 0x0e),

  // Conversion
  vcvtdq2ps: both('rm', none, M0F, 0, 0x5b, 'full32'),
  vcvtps2dq: both('rm', x66, M0F, 0, 0x5b, 'full32'),
  vcvttps2dq: both('rm', xF3, M0F, 0, 0x5b, 'full32'),
  vcvtudq2ps: evex('rm', xF2, M0F, 0, 0x7a, 'full32'),
  vcvtps2pd: both('rm', none, M0F, 0, 0x5a, 'half32', mixed),
  vcvtdq2pd: both('rm', xF3, M0F, 0, 0xe6, 'half32', mixed),
  vcvtss2sd: both('rvm', xF3, M0F, 0, 0x5a, 4),
  vcvtsd2ss: both('rvm', xF2, M0F, 1, 0x5a, 8, w1),
  vcvtph2ps: both('rm', x66, M38, 0, 0x13, 'half', mixed),
  vcvtps2ph: both('mri', x66, M3A, 0, 0x1d, 'half', mixed),
  vcvtneps2bf16: evex('rr', xF3, M38, 0, 0x72, 'full32', mixed),
  vcvtsi2ss: both('rvg', xF3, M0F, 0, 0x2a, 4),
  vcvtsi2sd: both('rvg', xF2, M0F, 0, 0x2a, 4),
  vcvttss2si: both('gm', xF3, M0F, 0, 0x2c, 4),
  vcvtss2si: both('gm', xF3, M0F, 0, 0x2d, 4),
  vcvttsd2si: both('gm', xF2, M0F, 0, 0x2c, 8),

  // Products of small types
  vpdpbusd: evex('rvm', x66, M38, 0, 0x50, 'full32'),
  vpdpwssd: evex('rvm', x66, M38, 0, 0x52, 'full32'),
  vdpbf16ps: evex('rvm', xF3, M38, 0, 0x52, 'full32'),
  vpmaddwd: both('rvm', x66, M0F, 0, 0xf5, 'all'),
  vpmaddubsw: both('rvm', x66, M38, 0, 0x04, 'all'),

  // Integer arithmetic
  vpaddb: both('rvm', x66, M0F, 0, 0xfc, 'all'),
  vpaddw: both('rvm', x66, M0F, 0, 0xfd, 'all'),
  vpaddd: both('rvm', x66, M0F, 0, 0xfe, 'full32'),
  vpaddq: both('rvm', x66, M0F, 1, 0xd4, 'full64', w1),
  vpsubb: both('rvm', x66, M0F, 0, 0xf8, 'all'),
  vpsubw: both('rvm', x66, M0F, 0, 0xf9, 'all'),
  vpsubd: both('rvm', x66, M0F, 0, 0xfa, 'full32'),
  vpsubq: both('rvm', x66, M0F, 1, 0xfb, 'full64', w1),
  vpmulld: both('rvm', x66, M38, 0, 0x40, 'full32'),
  vpmullw: both('rvm', x66, M0F, 0, 0xd5, 'all'),
  vpmulhw: both('rvm', x66, M0F, 0, 0xe5, 'all'),
  vpmuludq: both('rvm', x66, M0F, 1, 0xf4, 'full64', w1),
  vpmuldq: both('rvm', x66, M38, 1, 0x28, 'full64', w1),
  vpminsd: both('rvm', x66, M38, 0, 0x39, 'full32'),
  vpmaxsd: both('rvm', x66, M38, 0, 0x3d, 'full32'),
  vpminud: both('rvm', x66, M38, 0, 0x3b, 'full32'),
  vpmaxud: both('rvm', x66, M38, 0, 0x3f, 'full32'),
  vpabsb: both('rm', x66, M38, 0, 0x1c, 'all'),
  vpabsd: both('rm', x66, M38, 0, 0x1e, 'full32'),
  vpsignb: vex('rvm', x66, M38, 0, 0x08),
  vpsignd: vex('rvm', x66, M38, 0, 0x0a),

  // Integer logic, shifts, comparison
  vpand: vex('rvm', x66, M0F, 0, 0xdb, 'all'),
  vpandn: vex('rvm', x66, M0F, 0, 0xdf),
  vpor: vex('rvm', x66, M0F, 0, 0xeb, 'all'),
  vpxor: vex('rvm', x66, M0F, 0, 0xef, 'all'),
  vpandd: evex('rvm', x66, M0F, 0, 0xdb, 'full32'),
  vpandnd: evex('rvm', x66, M0F, 0, 0xdf, 'full32'),
  vpord: evex('rvm', x66, M0F, 0, 0xeb, 'full32'),
  vpxord: evex('rvm', x66, M0F, 0, 0xef, 'full32'),
  vpxorq: evex('rvm', x66, M0F, 1, 0xef, 'full64'),
  vpternlogd: evex('rvmi', x66, M3A, 0, 0x25, 'full32'),
  vpsllw: both('vmi', x66, M0F, 0, 0x71, 'all', { digit: 6 }),
  vpsrlw: both('vmi', x66, M0F, 0, 0x71, 'all', { digit: 2 }),
  vpsraw: both('vmi', x66, M0F, 0, 0x71, 'all', { digit: 4 }),
  vpslld: both('vmi', x66, M0F, 0, 0x72, 'full32', { digit: 6 }),
  vpsrld: both('vmi', x66, M0F, 0, 0x72, 'full32', { digit: 2 }),
  vpsrad: both('vmi', x66, M0F, 0, 0x72, 'full32', { digit: 4 }),
  vpsllq: both('vmi', x66, M0F, 1, 0x73, 'full64', { digit: 6, ...w1 }),
  vpsrlq: both('vmi', x66, M0F, 1, 0x73, 'full64', { digit: 2, ...w1 }),
  vpslldq: both('vmi', x66, M0F, 0, 0x73, 'all', { digit: 7 }),
  vpsrldq: both('vmi', x66, M0F, 0, 0x73, 'all', { digit: 3 }),
  vpsllvd: both('rvm', x66, M38, 0, 0x47, 'full32'),
  vpsrlvd: both('rvm', x66, M38, 0, 0x45, 'full32'),
  vpsravd: both('rvm', x66, M38, 0, 0x46, 'full32'),
  vprold: evex('vmi', x66, M0F, 0, 0x72, 'full32', { digit: 1 }),
  vprord: evex('vmi', x66, M0F, 0, 0x72, 'full32', { digit: 0 }),
  vpcmpeqb: vex('rvm', x66, M0F, 0, 0x74, 'all'),
  vpcmpeqd: vex('rvm', x66, M0F, 0, 0x76, 'all'),
  vpcmpeqq: vex('rvm', x66, M38, 0, 0x29),
  vpcmpgtb: vex('rvm', x66, M0F, 0, 0x64),
  vpcmpgtd: vex('rvm', x66, M0F, 0, 0x66),
  vpcmpgtq: vex('rvm', x66, M38, 0, 0x37),
  vpcmpd: evex('kvmi', x66, M3A, 0, 0x1f, 'full32'),
  vpcmpud: evex('kvmi', x66, M3A, 0, 0x1e, 'full32'),
  vptestmd: evex('kvm', x66, M38, 0, 0x27, 'full32'),
  vptestnmd: evex('kvm', xF3, M38, 0, 0x27, 'full32'),

  // Shuffles, narrowing, widening
  vshufps: both('rvmi', none, M0F, 0, 0xc6, 'full32'),
  vunpcklps: both('rvm', none, M0F, 0, 0x14, 'full32'),
  vunpckhps: both('rvm', none, M0F, 0, 0x15, 'full32'),
  vunpcklpd: both('rvm', x66, M0F, 1, 0x14, 'full64', w1),
  vunpckhpd: both('rvm', x66, M0F, 1, 0x15, 'full64', w1),
  vpermilps: both('rmi', x66, M3A, 0, 0x04, 'full32'),
  vpermilpsBy: both('rvm', x66, M38, 0, 0x0c, 'full32', { name: 'vpermilps' }),
  vpermps: both('rvm', x66, M38, 0, 0x16, 'full32'),
  vpermd: both('rvm', x66, M38, 0, 0x36, 'full32'),
  vpermq: both('rmi', x66, M3A, 1, 0x00, 'full64'),
  vpermpd: both('rmi', x66, M3A, 1, 0x01, 'full64'),
  vpermw: evex('rvm', x66, M38, 1, 0x8d, 'all'),
  vpermt2ps: evex('rvm', x66, M38, 0, 0x7f, 'full32'),
  vpermi2ps: evex('rvm', x66, M38, 0, 0x77, 'full32'),
  vpermt2d: evex('rvm', x66, M38, 0, 0x7e, 'full32'),
  vpermt2w: evex('rvm', x66, M38, 1, 0x7d, 'all'),
  vperm2f128: vex('rvmi', x66, M3A, 0, 0x06),
  vperm2i128: vex('rvmi', x66, M3A, 0, 0x46),
  vinsertf128: vex('rvmi', x66, M3A, 0, 0x18, 16, mixed),
  vinserti128: vex('rvmi', x66, M3A, 0, 0x38, 16, mixed),
  vinserti32x4: evex('rvmi', x66, M3A, 0, 0x38, 16, mixed),
  vinserti64x4: evex('rvmi', x66, M3A, 1, 0x3a, 32, mixed),
  vinsertf64x4: evex('rvmi', x66, M3A, 1, 0x1a, 32, mixed),
  vpextrb: vex('mri', x66, M3A, 0, 0x14, 1, mixed),
  vpextrw: vex('mri', x66, M3A, 0, 0x15, 2, mixed),
  vpextrd: vex('mri', x66, M3A, 0, 0x16, 4, mixed),
  vextractf128: vex('mri', x66, M3A, 0, 0x19, 16, mixed),
  vextracti128: vex('mri', x66, M3A, 0, 0x39, 16, mixed),
  vextractf32x4: evex('mri', x66, M3A, 0, 0x19, 16, mixed),
  vextracti32x4: evex('mri', x66, M3A, 0, 0x39, 16, mixed),
  vextractf64x4: evex('mri', x66, M3A, 1, 0x1b, 32, mixed),
  vextracti64x4: evex('mri', x66, M3A, 1, 0x3b, 32, mixed),
  vshuff32x4: evex('rvmi', x66, M3A, 0, 0x23, 'full32'),
  vshufi32x4: evex('rvmi', x66, M3A, 0, 0x43, 'full32'),
  valignd: evex('rvmi', x66, M3A, 0, 0x03, 'full32'),
  vpalignr: both('rvmi', x66, M3A, 0, 0x0f, 'all'),
  vpshufb: both('rvm', x66, M38, 0, 0x00, 'all'),
  vpshufd: both('rmi', x66, M0F, 0, 0x70, 'full32'),
  vpshuflw: both('rmi', xF2, M0F, 0, 0x70, 'all'),
  vpshufhw: both('rmi', xF3, M0F, 0, 0x70, 'all'),
  vpunpcklbw: both('rvm', x66, M0F, 0, 0x60, 'all'),
  vpunpckhbw: both('rvm', x66, M0F, 0, 0x68, 'all'),
  vpunpcklwd: both('rvm', x66, M0F, 0, 0x61, 'all'),
  vpunpckhwd: both('rvm', x66, M0F, 0, 0x69, 'all'),
  vpunpckldq: both('rvm', x66, M0F, 0, 0x62, 'full32'),
  vpunpckhdq: both('rvm', x66, M0F, 0, 0x6a, 'full32'),
  vpunpcklqdq: both('rvm', x66, M0F, 1, 0x6c, 'full64', w1),
  vpunpckhqdq: both('rvm', x66, M0F, 1, 0x6d, 'full64', w1),
  vpacksswb: both('rvm', x66, M0F, 0, 0x63, 'all'),
  vpackssdw: both('rvm', x66, M0F, 0, 0x6b, 'full32'),
  vpackuswb: both('rvm', x66, M0F, 0, 0x67, 'all'),
  vpackusdw: both('rvm', x66, M38, 0, 0x2b, 'full32'),
  vpmovzxbw: both('rm', x66, M38, 0, 0x30, 'half', mixed),
  vpmovzxbd: both('rm', x66, M38, 0, 0x31, 'quarter', mixed),
  vpmovzxwd: both('rm', x66, M38, 0, 0x33, 'half', mixed),
  vpmovsxbw: both('rm', x66, M38, 0, 0x20, 'half', mixed),
  vpmovsxbd: both('rm', x66, M38, 0, 0x21, 'quarter', mixed),
  vpmovsxwd: both('rm', x66, M38, 0, 0x23, 'half', mixed),
  vpmovsxdq: both('rm', x66, M38, 0, 0x25, 'half', mixed),
  vpmovzxdq: both('rm', x66, M38, 0, 0x35, 'half', mixed),
  vpmovdb: evex('mr', xF3, M38, 0, 0x31, 'quarter', mixed),
  vpmovdw: evex('mr', xF3, M38, 0, 0x33, 'half', mixed),
  vpmovwb: evex('mr', xF3, M38, 0, 0x30, 'half', mixed),
  vpmovsdb: evex('mr', xF3, M38, 0, 0x21, 'quarter', mixed),
  vcompressps: evex('mr', x66, M38, 0, 0x8a, 'element32'),
  vpcompressd: evex('mr', x66, M38, 0, 0x8b, 'element32'),
  vexpandps: evex('rm', x66, M38, 0, 0x88, 'element32'),

  // Opmasks
  vpmovm2d: evex('rk', xF3, M38, 0, 0x38, 'all'),
  vpmovd2m: evex('km', xF3, M38, 0, 0x39, 'all'),
  kmovb: vex('kmov', x66, M0F, 0, 0x92, 1, { length: 0, store: 0x93 }),
  kmovw: vex('kmov', none, M0F, 0, 0x92, 2, { length: 0, store: 0x93 }),
  kmovd: vex('kmov', xF2, M0F, 0, 0x92, 4, { length: 0, store: 0x93 }),
  kandw: vex('kkk', none, M0F, 0, 0x41, 2, { length: 1 }),
  korw: vex('kkk', none, M0F, 0, 0x45, 2, { length: 1 }),
  kxorw: vex('kkk', none, M0F, 0, 0x47, 2, { length: 1 }),
  kandnw: vex('kkk', none, M0F, 0, 0x42, 2, { length: 1 }),
  knotw: vex('kk', none, M0F, 0, 0x44, 2, { length: 0 }),
  kortestw: vex('kk', none, M0F, 0, 0x98, 2, { length: 0 }),

  vzeroupper: vex('none', none, M0F, 0, 0x77, 'all', { length: 0 }),
} as const;

export type VectorMnemonic = keyof typeof vectorTable;
