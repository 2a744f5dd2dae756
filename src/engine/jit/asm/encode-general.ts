// Owns the bytes of general-register instructions.
import { assertNever, invariant } from '../../../common/errors.ts';
import {
  type Encoded,
  immediate,
  isInt8,
  isInt32,
  modrm,
  place,
  pushLittleEndian,
  type RegisterOrMem,
  register,
  rex,
  vex,
} from './encode.ts';
import type { Operand } from './operands.ts';
import type { Gpr } from './registers.ts';
import type { GeneralRow } from './table-general.ts';

/** Operand size in bytes: a register tells it, else `sized` memory must. */
export function operandBytes(operands: readonly Operand[]): number {
  for (const operand of operands) {
    if (typeof operand === 'object' && operand.kind === 'gpr') return operand.bits / 8;
  }
  for (const operand of operands) {
    if (typeof operand === 'object' && operand.kind === 'mem' && operand.bytes !== undefined) return operand.bytes;
  }
  invariant(false, 'no operand tells the size: use `sized`');
}

/** Prefixes, opcode, ModRM. `opcode` is that of the 32/64-bit form. */
function operation(
  row: Pick<GeneralRow, 'before'>,
  opcode: readonly number[],
  reg: number,
  rm: RegisterOrMem,
  wide: boolean,
  force = false,
): Encoded {
  const out: Encoded = { bytes: [...row.before] };
  rex(out.bytes, reg, rm, wide, force);
  out.bytes.push(...opcode);
  modrm(out, reg, rm);
  return out;
}

function encodeAlu(row: GeneralRow, operands: readonly Operand[]): Encoded {
  const [dst, src] = operands;
  const wide = operandBytes(operands) === 8;
  const base = row.digit << 3;
  if (typeof src === 'number') {
    const rm = place(dst);
    if (isInt8(src)) {
      const out = operation(row, [0x83], row.digit, rm, wide);
      out.bytes.push(src & 255);
      return out;
    }
    // rax has an opcode of its own, one byte shorter.
    const isRax = rm.kind === 'gpr' && rm.id === 0;
    const out = isRax ? { bytes: wide ? [0x48, base | 5] : [base | 5] } : operation(row, [0x81], row.digit, rm, wide);
    pushLittleEndian(out.bytes, immediate(src), 4);
    return out;
  }
  if (place(src).kind === 'mem') return operation(row, [base | 3], register(dst).id, place(src), wide);
  return operation(row, [base | 1], register(src).id, place(dst), wide);
}

function encodeShift(row: GeneralRow, operands: readonly Operand[]): Encoded {
  const [dst, count] = operands;
  const wide = operandBytes([dst as Operand]) === 8;
  if (typeof count !== 'number') {
    invariant(register(count).id === 1, 'a shift count stands in cl');
    return operation(row, [0xd3], row.digit, place(dst), wide);
  }
  if (count === 1) return operation(row, [0xd1], row.digit, place(dst), wide);
  const out = operation(row, [0xc1], row.digit, place(dst), wide);
  out.bytes.push(count);
  return out;
}

/** Bytes of a general-register instruction. Throws on operands that its row does not allow. */
export function encodeGeneral(row: GeneralRow, operands: readonly Operand[]): Encoded {
  const { form, opcode, digit } = row;
  const [a, b, c] = operands;
  switch (form) {
    case 'alu':
      return encodeAlu(row, operands);
    case 'rm': {
      const isByteRegister = row.sourceBytes === 1 && place(b).kind === 'gpr' && register(b).id >= 4;
      return operation(row, opcode, register(a).id, place(b), operandBytes([a as Operand]) === 8, isByteRegister);
    }
    case 'rmi': {
      const value = immediate(c);
      const short = isInt8(value);
      const out = operation(row, [short ? 0x6b : 0x69], register(a).id, place(b), operandBytes([a as Operand]) === 8);
      pushLittleEndian(out.bytes, value, short ? 1 : 4);
      return out;
    }
    case 'mr':
      return operation(row, opcode, register(b).id, place(a), operandBytes([b as Operand]) === 8);
    case 'm':
      return operation(row, opcode, digit, place(a), operandBytes(operands) === 8);
    case 'shift':
      return encodeShift(row, operands);
    case 'bmi': {
      const out: Encoded = { bytes: [] };
      const w = operandBytes([a as Operand]) === 8 ? 1 : 0;
      const fields = { map: 2, prefix: digit, w, length: 0, reg: register(a).id, vvvv: register(c).id, rm: place(b) };
      vex(out.bytes, fields);
      out.bytes.push(...opcode);
      modrm(out, register(a).id, place(b));
      return out;
    }
    case 'touch':
      return operation(row, opcode, digit, place(a), false);
    case 'none':
      return { bytes: [...opcode] };
    default:
      return assertNever(form);
  }
}

/** `mov`: register, memory, or an immediate in the shortest form that keeps all 64 bits. */
export function encodeMov(dst: Operand, src: Operand): Encoded {
  const row = { before: [] };
  const target = place(dst);
  if (typeof src !== 'number') {
    const wide = operandBytes([dst, src]) === 8;
    const source = place(src);
    if (source.kind === 'mem') return operation(row, [0x8b], register(dst).id, source, wide);
    return operation(row, [0x89], source.id, target, wide);
  }
  const wide = operandBytes([dst]) === 8;
  const out: Encoded = { bytes: [] };
  if (target.kind === 'gpr' && (!wide || !isInt32(src))) {
    rex(out.bytes, 0, target, wide);
    out.bytes.push(0xb8 | (target.id & 7));
    pushLittleEndian(out.bytes, src, wide ? 8 : 4);
    return out;
  }
  invariant(isInt32(src), 'memory takes 32-bit immediates');
  const short = operation(row, [0xc7], 0, target, wide);
  pushLittleEndian(short.bytes, src, 4);
  return short;
}

/** `push` and `pop` of a 64-bit register. */
export function encodeStack(opcode: 0x50 | 0x58, operand: Gpr): Encoded {
  const out: Encoded = { bytes: [] };
  rex(out.bytes, 0, operand, false);
  out.bytes.push(opcode | (operand.id & 7));
  return out;
}

/** `call` through a 64-bit register. */
export function encodeCall(operand: Gpr): Encoded {
  const out: Encoded = { bytes: [] };
  rex(out.bytes, 0, operand, false);
  out.bytes.push(0xff);
  modrm(out, 2, operand);
  return out;
}

/** `setcc` of a byte register. */
export function encodeSet(condition: number, operand: Gpr): Encoded {
  const out: Encoded = { bytes: [] };
  rex(out.bytes, 0, operand, false, operand.id >= 4);
  out.bytes.push(0x0f, 0x90 | condition);
  modrm(out, 0, operand);
  return out;
}
