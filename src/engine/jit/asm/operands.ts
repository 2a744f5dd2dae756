// Owns the operands of instructions: memory references, labels, immediates.
import type { Gpr, Mask, Vec } from './registers.ts';

/** A place in the code, bound once; jumps and rip-relative references may precede the binding. */
export interface Label {
  readonly kind: 'label';
  readonly name: string;
}

/** base + index * scale + disp, or a label (rip-relative). */
export interface Mem {
  readonly kind: 'mem';
  readonly base: Gpr | undefined;
  readonly index: Gpr | undefined;
  readonly scale: 1 | 2 | 4 | 8;
  readonly disp: number;
  readonly label: Label | undefined;
  /** EVEX embedded broadcast: one element, repeated in every lane. */
  readonly broadcast: boolean;
  /** Operand size in bytes where no register tells it (`sized`). */
  readonly bytes: number | undefined;
}

export type Imm = number;
export type Operand = Gpr | Vec | Mask | Mem | Label | Imm;
export type VecOrMem = Vec | Mem;
export type GprOrMem = Gpr | Mem;

export interface Index {
  readonly index: Gpr;
  readonly scale?: 1 | 2 | 4 | 8;
}

/** [base + disp], or [base + index * scale + disp]. */
export function mem(base: Gpr, disp = 0, index?: Index): Mem {
  return {
    kind: 'mem',
    base,
    index: index?.index,
    scale: index?.scale ?? 1,
    disp,
    label: undefined,
    broadcast: false,
    bytes: undefined,
  };
}

/** [rip + label + disp]: constants and tables that travel with the code. */
export function ripMem(label: Label, disp = 0): Mem {
  return { kind: 'mem', base: undefined, index: undefined, scale: 1, disp, label, broadcast: false, bytes: undefined };
}

/** The same place, one element repeated in every lane (AVX-512 only). */
export const broadcast = (place: Mem): Mem => ({ ...place, broadcast: true });

/** The same place with its operand size said: needed where no register operand tells it. */
export const sized = (place: Mem, bytes: 1 | 2 | 4 | 8): Mem => ({ ...place, bytes });

/** The same place, `more` bytes further. */
export const offset = (place: Mem, more: number): Mem => ({ ...place, disp: place.disp + more });
