// Owns the parts of an instruction's bytes: REX, VEX and EVEX prefixes, ModRM with SIB, one function each.
import { invariant } from '../../../common/errors.ts';
import type { Label, Mem, Operand } from './operands.ts';
import type { Gpr, Mask, Vec } from './registers.ts';

/** One instruction's bytes; `fix` is a rip-relative displacement that waits for its label's place. */
export interface Encoded {
  readonly bytes: number[];
  fix?: { readonly at: number; readonly label: Label; readonly disp: number };
}

export type Register = Gpr | Vec | Mask;
export type RegisterOrMem = Register | Mem;

export const isInt8 = (value: number) => value >= -128 && value <= 127;
export const isInt32 = (value: number) => value >= -0x8000_0000 && value <= 0x7fff_ffff;
const bit = (value: number, index: number) => (value >> index) & 1;

export function pushLittleEndian(out: number[], value: number, numBytes: number): void {
  let rest = BigInt.asUintN(64, BigInt(value));
  for (let i = 0; i < numBytes; i++) {
    out.push(Number(rest & 255n));
    rest >>= 8n;
  }
}

/** Upper bits of the registers that an r/m operand names: `b` extends ModRM.rm or SIB.base, `x` SIB.index. */
function extensionBits(rm: RegisterOrMem): { b: number; x: number } {
  if (rm.kind !== 'mem') return { b: bit(rm.id, 3), x: bit(rm.id, 4) };
  return { b: rm.base ? bit(rm.base.id, 3) : 0, x: rm.index ? bit(rm.index.id, 3) : 0 };
}

/*
 * REX    0100 W R X B        W 64-bit operands; R, X, B fourth bit of ModRM.reg, SIB.index, ModRM.rm or SIB.base
 */
export function rex(out: number[], reg: number, rm: RegisterOrMem, wide: boolean, force = false): void {
  const { b, x } = extensionBits(rm);
  const prefix = 0x40 | (wide ? 8 : 0) | (bit(reg, 3) << 2) | ((rm.kind === 'mem' ? x : 0) << 1) | b;
  if (prefix !== 0x40 || force) out.push(prefix);
}

export interface VectorFields {
  readonly map: number;
  readonly prefix: number;
  readonly w: number;
  /** 0: 128 bits, 1: 256, 2: 512. */
  readonly length: number;
  /** Register numbers of ModRM.reg and of vvvv (0 where unused). */
  readonly reg: number;
  readonly vvvv: number;
  readonly rm: RegisterOrMem;
}

/*
 * VEX    C5  R vvvv L pp                          where X = B = W = 0 and the map is 0F
 *        C4  R X B mmmmm  W vvvv L pp             R, X, B and vvvv are stored inverted
 */
export function vex(out: number[], fields: VectorFields): void {
  const { map, prefix, w, length, reg, vvvv, rm } = fields;
  const { b, x: high } = extensionBits(rm);
  const x = rm.kind === 'mem' ? high : 0;
  const last = ((~vvvv & 15) << 3) | (length << 2) | prefix;
  const r = bit(reg, 3) ^ 1;
  if (!x && !b && !w && map === 1) out.push(0xc5, (r << 7) | last);
  else out.push(0xc4, (r << 7) | ((x ^ 1) << 6) | ((b ^ 1) << 5) | map, (w << 7) | last);
}

/*
 * EVEX   62  R X B R' 0 mmm  W vvvv 1 pp  z L'L b V' aaa
 *        R' and V' are the fifth bits of ModRM.reg and vvvv, X that of a register in ModRM.rm; all five inverted;
 *        z zeroing, b broadcast, aaa opmask
 */
export function evex(out: number[], fields: VectorFields, mask: number, zeroing: boolean, isBroadcast: boolean): void {
  const { map, prefix, w, length, reg, vvvv, rm } = fields;
  const { b, x } = extensionBits(rm);
  out.push(
    0x62,
    ((bit(reg, 3) ^ 1) << 7) | ((x ^ 1) << 6) | ((b ^ 1) << 5) | ((bit(reg, 4) ^ 1) << 4) | map,
    (w << 7) | ((~vvvv & 15) << 3) | 4 | prefix,
    (zeroing ? 128 : 0) | (length << 5) | (isBroadcast ? 16 : 0) | ((bit(vvvv, 4) ^ 1) << 3) | mask,
  );
}

/*
 * ModRM  mod reg rm          mod 3: register; 0, 1, 2: memory with no, 8-bit, 32-bit displacement; rm 4: SIB follows
 * SIB    scale index base    index 4: none
 * An 8-bit displacement counts in `unit` bytes (EVEX), else in single ones. Base rbp or r13 always carries one.
 */
export function modrm(out: Encoded, reg: number, rm: RegisterOrMem, unit = 1): void {
  const { bytes } = out;
  const field = (reg & 7) << 3;
  if (rm.kind !== 'mem') {
    bytes.push(0xc0 | field | (rm.id & 7));
    return;
  }
  if (rm.label) {
    bytes.push(field | 5);
    out.fix = { at: bytes.length, label: rm.label, disp: rm.disp };
    pushLittleEndian(bytes, 0, 4);
    return;
  }
  const { base, index, disp } = rm;
  invariant(base && isInt32(disp), 'a memory operand has a base and a 32-bit displacement');
  invariant(index?.id !== 4, 'rsp cannot be an index');
  const low = base.id & 7;
  const needsSib = index !== undefined || low === 4;
  const short = disp % unit === 0 && isInt8(disp / unit);
  const mod = disp === 0 && low !== 5 ? 0 : short ? 1 : 2;
  bytes.push((mod << 6) | field | (needsSib ? 4 : low));
  if (needsSib) bytes.push((Math.log2(rm.scale) << 6) | ((index ? index.id & 7 : 4) << 3) | low);
  if (mod === 1) pushLittleEndian(bytes, disp / unit, 1);
  if (mod === 2) pushLittleEndian(bytes, disp, 4);
}

/** The operand, which must be a register. */
export function register(operand: Operand | undefined): Register {
  invariant(typeof operand === 'object' && operand.kind !== 'mem' && operand.kind !== 'label', 'want a register');
  return operand;
}

/** The operand, which must be a register or memory. */
export function place(operand: Operand | undefined): RegisterOrMem {
  invariant(typeof operand === 'object' && operand.kind !== 'label', 'want a register or memory');
  return operand;
}

/** The operand, which must be an immediate. */
export function immediate(operand: Operand | undefined): number {
  invariant(typeof operand === 'number' && isInt32(operand), 'want an immediate of at most 32 bits');
  return operand;
}
