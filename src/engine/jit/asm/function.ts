// Owns the frame of an emitted function: arguments, free registers, locals, and the registers to save.
import { invariant } from '../../../common/errors.ts';
import { type Assembler, createAssembler } from './assembler.ts';
import { type Label, type Mem, mem, sized } from './operands.ts';
import { type Item, layOut, type MachineCode } from './program.ts';
import { type Gpr, r8, r9, r10, r11, r12, r13, r14, r15, rax, rbp, rbx, rcx, rdi, rdx, rsi, rsp } from './registers.ts';

/** System V AMD64 ABI: integer arguments in this order; callee-saved registers. */
const argumentRegisters = [rdi, rsi, rdx, rcx, r8, r9] as const;
const calleeSaved = [rbx, rbp, r12, r13, r14, r15];
/** Order in which free registers are handed out: those that need no saving first. */
const allocationOrder = [rax, r11, r10, r9, r8, rcx, rdx, rsi, rdi, rbx, rbp, r12, r13, r14, r15];

/** What the body of a function works with, besides the assembler. */
export interface Frame {
  /** Argument registers; they stay taken until `release`d. */
  readonly args: readonly Gpr[];
  /** Takes a free general register. Throws when none is left. */
  gpr(): Gpr;
  /** Takes this register. Throws when it is taken. */
  take(register: Gpr): Gpr;
  release(...registers: Gpr[]): void;
  /** A place of 8 bytes on the stack (of `numBytes` in a row, if given); valid until the function returns. */
  local(numBytes?: number): Mem;
  /** Jump here to return. */
  readonly exit: Label;
}

function namesRegister(item: Item, register: Gpr): boolean {
  if (item.kind !== 'instruction') return false;
  return item.operands.some((operand) => {
    if (typeof operand !== 'object') return false;
    if (operand.kind === 'gpr') return operand.id === register.id;
    return operand.kind === 'mem' && (operand.base?.id === register.id || operand.index?.id === register.id);
  });
}

const usesWideVectors = (items: readonly Item[]): boolean =>
  items.some(
    (item) =>
      item.kind === 'instruction' &&
      item.operands.some((operand) => typeof operand === 'object' && operand.kind === 'vec' && operand.bits > 128),
  );

/**
 * Emits a function with `numArgs` integer arguments. The callee-saved registers that the body names are saved and
 * restored; after wide vectors the upper halves are cleared (vzeroupper), which SSE code of the caller needs for speed.
 */
export function emitFunction(name: string, numArgs: number, body: (a: Assembler, frame: Frame) => void): MachineCode {
  const a = createAssembler();
  const exit = a.label('exit');
  const args = argumentRegisters.slice(0, numArgs);
  const taken = new Set<number>(args.map((register) => register.id));
  let localBytes = 0;
  body(a, {
    args,
    exit,
    gpr() {
      const free = allocationOrder.find((register) => !taken.has(register.id));
      invariant(free, `no free register left in ${name}`);
      taken.add(free.id);
      return free;
    },
    take(register) {
      invariant(!taken.has(register.id), `a register of ${name} is taken twice`);
      taken.add(register.id);
      return register;
    },
    release(...registers) {
      for (const register of registers) taken.delete(register.id);
    },
    local(numBytes = 8) {
      const place = sized(mem(rsp, localBytes), 8);
      localBytes += Math.ceil(numBytes / 8) * 8;
      return place;
    },
  });
  const bodyItems = [...a.items];
  const saved = calleeSaved.filter((register) => bodyItems.some((item) => namesRegister(item, register)));

  const prologue = createAssembler();
  for (const register of saved) prologue.push(register);
  if (localBytes > 0) prologue.sub(rsp, localBytes);

  a.bind(exit);
  if (localBytes > 0) a.add(rsp, localBytes);
  for (const register of saved.toReversed()) a.pop(register);
  if (usesWideVectors(bodyItems)) a.vzeroupper();
  a.ret();
  a.placeConstants();
  return layOut(name, [...prologue.items, ...a.items]);
}
