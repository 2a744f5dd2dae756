// Owns the assembler that kernels are written with: one typed method per table row, labels, constants.
import { encodeCall, encodeGeneral, encodeMov, encodeSet, encodeStack } from './encode-general.ts';
import { encodeVector } from './encode-vector.ts';
import type { Encoded } from './encode.ts';
import { type GprOrMem, type Imm, type Label, type Mem, type Operand, ripMem, type VecOrMem } from './operands.ts';
import type { Item, JumpKind } from './program.ts';
import type { Gpr, Mask, Vec } from './registers.ts';
import { type Condition, conditions, type GeneralMnemonic, generalTable } from './table-general.ts';
import { type VectorMnemonic, vectorTable } from './table.ts';

/** Operand types of each form of `table.ts`. */
interface VectorOperands {
  rvm: [dst: Vec, src1: Vec, src2: VecOrMem];
  rvmi: [dst: Vec, src1: Vec, src2: VecOrMem, imm: Imm];
  rvmr: [dst: Vec, src1: Vec, src2: VecOrMem, src3: Vec];
  rr: [dst: Vec, src: Vec];
  rm: [dst: Vec, src: VecOrMem];
  rmi: [dst: Vec, src: VecOrMem, imm: Imm];
  mov: [dst: VecOrMem, src: VecOrMem];
  mr: [dst: VecOrMem, src: Vec];
  mri: [dst: VecOrMem, src: Vec, imm: Imm];
  vmi: [dst: Vec, src: VecOrMem, imm: Imm];
  kvm: [dst: Mask, src1: Vec, src2: VecOrMem];
  kvmi: [dst: Mask, src1: Vec, src2: VecOrMem, predicate: Imm];
  km: [dst: Mask, src: Vec];
  rk: [dst: Vec, src: Mask];
  gm: [dst: Gpr, src: VecOrMem];
  rvg: [dst: Vec, src1: Vec, src2: GprOrMem];
  movd: [dst: Vec | GprOrMem, src: Vec | GprOrMem];
  kkk: [dst: Mask, src1: Mask, src2: Mask];
  kk: [dst: Mask, src: Mask];
  kmov: [dst: Mask | Gpr, src: Mask | Gpr];
  none: [];
}

/** Operand types of each form of `table-general.ts`. */
interface GeneralOperands {
  alu: [dst: GprOrMem, src: GprOrMem | Imm];
  rm: [dst: Gpr, src: GprOrMem];
  rmi: [dst: Gpr, src: GprOrMem, imm: Imm];
  mr: [dst: GprOrMem, src: Gpr];
  m: [dst: GprOrMem];
  shift: [dst: GprOrMem, count: Imm | Gpr];
  bmi: [dst: Gpr, src: GprOrMem, count: Gpr];
  touch: [place: Mem];
  none: [];
}

type VectorMethods = {
  readonly [M in VectorMnemonic]: (...operands: VectorOperands[(typeof vectorTable)[M]['form']]) => void;
};
type GeneralMethods = {
  readonly [M in GeneralMnemonic]: (...operands: GeneralOperands[(typeof generalTable)[M]['form']]) => void;
};
type JumpMethods = { readonly [C in Condition]: (target: Label) => void };

class AssemblerCore {
  readonly items: Item[] = [];
  readonly #pool = new Map<string, { label: Label; bytes: Uint8Array }>();
  #numLabels = 0;

  /** A new label; `bind` gives it its place. */
  label(name: string): Label {
    return { kind: 'label', name: `${name}_${this.#numLabels++}` };
  }

  bind(label: Label): void {
    this.items.push({ kind: 'label', label });
  }

  /** Binds a new label here. */
  here(name: string): Label {
    const label = this.label(name);
    this.bind(label);
    return label;
  }

  align(boundary: number): void {
    this.items.push({ kind: 'align', boundary });
  }

  jmp(target: Label): void {
    this.#jump('jmp', target);
  }

  call(target: Label): void {
    this.#jump('call', target);
  }

  mov(dst: GprOrMem, src: GprOrMem | Imm): void {
    this.#record('mov', 'mov', [dst, src], encodeMov(dst, src));
  }

  push(register: Gpr): void {
    this.#record('push', 'push', [register], encodeStack(0x50, register));
  }

  pop(register: Gpr): void {
    this.#record('pop', 'pop', [register], encodeStack(0x58, register));
  }

  /** Calls the function whose address the register holds. */
  callRegister(register: Gpr): void {
    this.#record('call', 'call', [register], encodeCall(register));
  }

  /** The byte register becomes 1 where the condition holds, else 0. */
  set(condition: Condition, register: Gpr): void {
    const mnemonic = `set${condition.slice(1)}`;
    this.#record(mnemonic, mnemonic, [register], encodeSet(conditions[condition], register));
  }

  /** A 4-byte float in the constant pool. */
  f32(value: number): Mem {
    return ripMem(this.constant(Float32Array.of(value)));
  }

  /** A 4-byte integer in the constant pool. */
  i32(value: number): Mem {
    return ripMem(this.constant(Int32Array.of(value)));
  }

  /** Bytes that travel behind the code, once for equal contents. Entries of 32 bytes and more are aligned to 64. */
  constant(data: Float32Array | Int32Array | Uint32Array | Uint8Array): Label {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const key = bytes.join();
    let entry = this.#pool.get(key);
    if (!entry) {
      entry = { label: this.label('const'), bytes: bytes.slice() };
      this.#pool.set(key, entry);
    }
    return entry.label;
  }

  /** Appends the constants; call once, behind the code. */
  placeConstants(): void {
    const entries = [...this.#pool.values()].toSorted((a, b) => b.bytes.length - a.bytes.length);
    if (entries.length > 0) this.align(64);
    for (const { label, bytes } of entries) {
      if (bytes.length >= 32) this.align(64);
      this.bind(label);
      this.items.push({ kind: 'data', bytes });
    }
  }

  #jump(jump: JumpKind, target: Label): void {
    this.items.push({ kind: 'jump', jump, target });
  }

  #record(key: string, mnemonic: string, operands: readonly Operand[], encoded: Encoded): void {
    this.items.push({ kind: 'instruction', key, mnemonic, operands, ...encoded });
  }

  static {
    const define = (name: string, method: (this: AssemblerCore, ...operands: never[]) => void) =>
      Object.defineProperty(AssemblerCore.prototype, name, { value: method });
    for (const [key, row] of Object.entries(vectorTable)) {
      define(key, function vector(...operands: Operand[]) {
        this.#record(key, 'name' in row ? row.name : key, operands, encodeVector(row, operands));
      });
    }
    for (const [key, row] of Object.entries(generalTable)) {
      define(key, function general(...operands: Operand[]) {
        this.#record(key, row.name ?? key, operands, encodeGeneral(row, operands));
      });
    }
    for (const condition of Object.keys(conditions) as Condition[]) {
      define(condition, function conditional(target: Label) {
        this.#jump(condition, target);
      });
    }
  }
}

/** Writes code: methods named as the instructions, operands in Intel's order (destination first). */
export type Assembler = AssemblerCore & VectorMethods & GeneralMethods & JumpMethods;

export const createAssembler = (): Assembler => new AssemblerCore() as Assembler;
