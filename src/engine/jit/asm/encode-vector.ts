// Owns the bytes of vector and opmask instructions: which encoding, and where each operand goes.
import { assertNever, invariant } from '../../../common/errors.ts';
import {
  type Encoded,
  evex,
  immediate,
  modrm,
  place,
  pushLittleEndian,
  type RegisterOrMem,
  register,
  type VectorFields,
  vex,
} from './encode.ts';
import type { Operand } from './operands.ts';
import type { Mask } from './registers.ts';
import type { Tuple, VectorRow } from './table.ts';

/** Bytes of memory that a vector operand of this tuple covers, and the unit of its displacement. */
export function tupleBytes(tuple: Tuple, length: number, isBroadcast: boolean): { memory: number; unit: number } {
  const vector = 16 << length;
  const same = (bytes: number) => ({ memory: bytes, unit: bytes });
  if (typeof tuple === 'number') return same(tuple);
  switch (tuple) {
    case 'full32':
      return same(isBroadcast ? 4 : vector);
    case 'full64':
      return same(isBroadcast ? 8 : vector);
    case 'all':
      return same(vector);
    case 'half32':
      return same(isBroadcast ? 4 : vector / 2);
    case 'half':
      return same(vector / 2);
    case 'quarter':
      return same(vector / 4);
    case 'element32':
      return { memory: vector, unit: 4 };
  }
}

/** Where each operand goes. */
interface Placed {
  readonly reg: number;
  readonly vvvv: number;
  readonly rm: RegisterOrMem;
  readonly opcode: number;
  readonly immediate?: number;
}

function placeOperands(row: VectorRow, operands: readonly Operand[]): Placed {
  const { opcode, form } = row;
  const [a, b, c, d] = operands;
  const regRm = (dst: Operand | undefined, src: Operand | undefined): Placed => ({
    opcode,
    reg: register(dst).id,
    vvvv: 0,
    rm: place(src),
  });
  const regVvvvRm = (): Placed => ({ opcode, reg: register(a).id, vvvv: register(b).id, rm: place(c) });
  const stored = (): Placed => {
    invariant(row.store !== undefined, 'this instruction has no store form');
    return { ...regRm(b, a), opcode: row.store };
  };
  switch (form) {
    case 'rvm':
    case 'kvm':
    case 'rvg':
    case 'kkk':
      return regVvvvRm();
    case 'rvmi':
    case 'kvmi':
      return { ...regVvvvRm(), immediate: immediate(d) };
    case 'rvmr':
      return { ...regVvvvRm(), immediate: register(d).id << 4 };
    case 'rr':
    case 'rm':
    case 'gm':
    case 'km':
    case 'rk':
    case 'kk':
      return regRm(a, b);
    case 'rmi':
      return { ...regRm(a, b), immediate: immediate(c) };
    case 'mr':
      return regRm(b, a);
    case 'mri':
      return { ...regRm(b, a), immediate: immediate(c) };
    case 'vmi':
      return { opcode, reg: row.digit ?? 0, vvvv: register(a).id, rm: place(b), immediate: immediate(c) };
    case 'mov':
      return place(a).kind === 'mem' ? stored() : regRm(a, b);
    case 'movd':
      return place(a).kind === 'vec' ? regRm(a, b) : stored();
    case 'kmov':
      // Both directions name the destination in ModRM.reg.
      return place(a).kind === 'mask' ? regRm(a, b) : { ...regRm(a, b), opcode: row.store ?? opcode };
    case 'none':
      return { opcode, reg: 0, vvvv: 0, rm: noOperand };
    default:
      return assertNever(form);
  }
}

const noOperand: Mask = { kind: 'mask', id: 0 };

/** A high register costs the three-byte VEX prefix in ModRM.rm only: a move can be turned round instead. */
function shortenVex(row: VectorRow, operands: readonly Operand[], placed: Placed): Placed {
  if (row.map !== 1 || row.vexW !== 0 || placed.rm.kind !== 'vec' || placed.rm.id < 8) return placed;
  if (row.form === 'mov' && row.store !== undefined && placed.reg < 8) {
    return { ...placed, opcode: row.store, reg: placed.rm.id, rm: register(operands[0]) };
  }
  return placed;
}

/** 0, 1, 2 for 128, 256, 512 bits: that of the widest vector operand. */
function vectorLength(row: VectorRow, operands: readonly Operand[]): number {
  if (row.length !== undefined) return row.length;
  let bits = 128;
  let narrowest = 512;
  for (const operand of operands) {
    if (typeof operand !== 'object' || operand.kind !== 'vec') continue;
    bits = Math.max(bits, operand.bits);
    narrowest = Math.min(narrowest, operand.bits);
  }
  invariant(row.mixed || narrowest >= bits, 'vector operands of one instruction have one width');
  return Math.log2(bits / 128);
}

function needsEvex(operand: Operand): boolean {
  if (typeof operand !== 'object') return false;
  if (operand.kind === 'vec') return operand.bits === 512 || operand.id >= 16 || operand.mask !== undefined;
  return operand.kind === 'mem' && operand.broadcast;
}

/** Whether the instruction with these operands takes an EVEX prefix: only if VEX cannot say it. */
export function usesEvex(row: VectorRow, operands: readonly Operand[]): boolean {
  const shiftsMemory = row.form === 'vmi' && place(operands[1]).kind === 'mem';
  return row.vexW === undefined || shiftsMemory || operands.some(needsEvex);
}

/** Bytes of a vector instruction. Throws on operands that its row does not allow. */
export function encodeVector(row: VectorRow, operands: readonly Operand[]): Encoded {
  const out: Encoded = { bytes: [] };
  const length = vectorLength(row, operands);
  const isEvex = usesEvex(row, operands);
  const plain = placeOperands(row, operands);
  const placed = isEvex ? plain : shortenVex(row, operands, plain);
  const wide = operands.some((operand) => typeof operand === 'object' && operand.kind === 'gpr' && operand.bits === 64);
  const hasGeneral = row.form === 'movd' || row.form === 'gm' || row.form === 'rvg';
  const w = isEvex ? row.evexW : row.vexW;
  invariant(w !== undefined, 'these operands need AVX-512, which the instruction does not have');
  const fields: VectorFields = {
    map: row.map,
    prefix: row.prefix,
    w: hasGeneral && wide ? 1 : w,
    length,
    reg: placed.reg,
    vvvv: placed.vvvv,
    rm: placed.rm,
  };
  const isBroadcast = placed.rm.kind === 'mem' && placed.rm.broadcast;
  let unit = 1;
  if (isEvex) {
    const guarded = operands.find((operand) => typeof operand === 'object' && operand.kind === 'vec' && operand.mask);
    const mask = typeof guarded === 'object' && guarded.kind === 'vec' ? guarded : undefined;
    evex(out.bytes, fields, mask?.mask?.id ?? 0, mask?.zeroing ?? false, isBroadcast);
    unit = tupleBytes(row.tuple, length, isBroadcast).unit;
  } else {
    vex(out.bytes, fields);
  }
  out.bytes.push(placed.opcode);
  if (row.form !== 'none') modrm(out, placed.reg, placed.rm, unit);
  if (placed.immediate !== undefined) pushLittleEndian(out.bytes, placed.immediate, 1);
  return out;
}
