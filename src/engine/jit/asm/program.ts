// Owns code as a list of items, and its layout: short or near jumps, alignment, displacements to labels.
import { invariant } from '../../../common/errors.ts';
import { pushLittleEndian } from './encode.ts';
import type { Label, Operand } from './operands.ts';
import { type Condition, conditions } from './table-general.ts';

/** One instruction with its bytes; `fix` is a rip-relative displacement to fill in. */
export interface Instruction {
  readonly kind: 'instruction';
  /** Key in the instruction tables; `mnemonic` is its name in text. */
  readonly key: string;
  readonly mnemonic: string;
  readonly operands: readonly Operand[];
  readonly bytes: readonly number[];
  readonly fix?: { readonly at: number; readonly label: Label; readonly disp: number };
}

export type JumpKind = Condition | 'jmp' | 'call';

export type Item =
  | Instruction
  | { readonly kind: 'jump'; readonly jump: JumpKind; readonly target: Label }
  | { readonly kind: 'label'; readonly label: Label }
  | { readonly kind: 'align'; readonly boundary: number }
  | { readonly kind: 'data'; readonly bytes: Uint8Array };

/** An item in its place. */
export interface PlacedItem {
  readonly item: Item;
  readonly offset: number;
  readonly bytes: readonly number[];
}

/** Finished position-independent code of one function. */
export interface MachineCode {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly items: readonly PlacedItem[];
}

/** The longest useful no-operations (Intel SDM, NOP, table 4-12). */
const nops: readonly (readonly number[])[] = [
  [0x90],
  [0x66, 0x90],
  [0x0f, 0x1f, 0x00],
  [0x0f, 0x1f, 0x40, 0],
  [0x0f, 0x1f, 0x44, 0, 0],
  [0x66, 0x0f, 0x1f, 0x44, 0, 0],
  [0x0f, 0x1f, 0x80, 0, 0, 0, 0],
  [0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
  [0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
];

function padding(numBytes: number): number[] {
  const out: number[] = [];
  while (out.length < numBytes) out.push(...(nops[Math.min(numBytes - out.length, nops.length) - 1] ?? []));
  return out;
}

const nearBytes = (jump: JumpKind) => (jump === 'jmp' || jump === 'call' ? 5 : 6);

function jumpBytes(jump: JumpKind, isNear: boolean, distance: number): number[] {
  const out: number[] = [];
  if (jump === 'call') out.push(0xe8);
  else if (jump === 'jmp') out.push(isNear ? 0xe9 : 0xeb);
  else if (isNear) out.push(0x0f, 0x80 | conditions[jump]);
  else out.push(0x70 | conditions[jump]);
  pushLittleEndian(out, distance, isNear ? 4 : 1);
  return out;
}

/** Offsets of all items, given which jumps are near. */
function offsetsOf(items: readonly Item[], near: ReadonlySet<Item>): Int32Array {
  const offsets = new Int32Array(items.length + 1);
  let at = 0;
  for (const [index, item] of items.entries()) {
    offsets[index] = at;
    if (item.kind === 'instruction' || item.kind === 'data') at += item.bytes.length;
    else if (item.kind === 'jump') at += near.has(item) ? nearBytes(item.jump) : 2;
    else if (item.kind === 'align') at = Math.ceil(at / item.boundary) * item.boundary;
  }
  offsets[items.length] = at;
  return offsets;
}

/**
 * Places the items: every jump starts short and becomes near when its target is out of reach, until nothing changes
 * (jumps only ever grow, so this ends). Throws when a label is used but not bound, or bound twice.
 */
export function layOut(name: string, items: readonly Item[]): MachineCode {
  const labelIndex = new Map<Label, number>();
  for (const [index, item] of items.entries()) {
    if (item.kind !== 'label') continue;
    invariant(!labelIndex.has(item.label), `label ${item.label.name} is bound twice in ${name}`);
    labelIndex.set(item.label, index);
  }
  const near = new Set<Item>();
  for (const item of items) if (item.kind === 'jump' && item.jump === 'call') near.add(item);

  let offsets = offsetsOf(items, near);
  const offsetOf = (index: number): number => {
    const offset = offsets[index];
    invariant(offset !== undefined, 'item index in range');
    return offset;
  };
  const target = (label: Label): number => {
    const index = labelIndex.get(label);
    invariant(index !== undefined, `label ${label.name} of ${name} is never bound`);
    return offsetOf(index);
  };
  for (let changed = true; changed; ) {
    changed = false;
    for (const [index, item] of items.entries()) {
      if (item.kind !== 'jump' || near.has(item)) continue;
      const distance = target(item.target) - offsetOf(index) - 2;
      if (distance >= -128 && distance <= 127) continue;
      near.add(item);
      changed = true;
    }
    if (changed) offsets = offsetsOf(items, near);
  }

  const bytes = new Uint8Array(offsetOf(items.length));
  const placed = items.map((item, index): PlacedItem => {
    const offset = offsetOf(index);
    const end = offsetOf(index + 1);
    const out = bytesOf(item, end - offset, (label) => target(label) - end, near.has(item));
    bytes.set(out, offset);
    return { item, offset, bytes: out };
  });
  return { name, bytes, items: placed };
}

function bytesOf(item: Item, size: number, distance: (label: Label) => number, isNear: boolean): readonly number[] {
  switch (item.kind) {
    case 'label':
      return [];
    case 'align':
      return padding(size);
    case 'data':
      return [...item.bytes];
    case 'jump':
      return jumpBytes(item.jump, isNear, distance(item.target));
    case 'instruction': {
      if (!item.fix) return item.bytes;
      const displacement: number[] = [];
      pushLittleEndian(displacement, distance(item.fix.label) + item.fix.disp, 4);
      return item.bytes.toSpliced(item.fix.at, 4, ...displacement);
    }
  }
}
