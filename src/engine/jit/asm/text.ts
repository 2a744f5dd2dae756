// Owns code as text: Intel syntax that GNU as accepts (`as --64 -msyntax=intel -mnaked-reg`).
import { operandBytes } from './encode-general.ts';
import { tupleBytes, usesEvex } from './encode-vector.ts';
import type { Mem, Operand } from './operands.ts';
import type { Instruction, Item, MachineCode } from './program.ts';
import { r8of, r32, registerName } from './registers.ts';
import { type GeneralRow, generalTable } from './table-general.ts';
import { type VectorRow, vectorTable } from './table.ts';

const sizeNames: Readonly<Record<number, string>> = {
  1: 'byte',
  2: 'word',
  4: 'dword',
  8: 'qword',
  16: 'xmmword',
  32: 'ymmword',
  64: 'zmmword',
};

const vectorRow = (key: string): VectorRow | undefined =>
  key in vectorTable ? vectorTable[key as keyof typeof vectorTable] : undefined;
const generalRow = (key: string): GeneralRow | undefined =>
  key in generalTable ? generalTable[key as keyof typeof generalTable] : undefined;

function addressText(place: Mem): string {
  const { base, index, scale, disp, label } = place;
  const parts = label ? ['rip', label.name] : base ? [registerName(base)] : [];
  if (index) parts.push(`${registerName(index)}*${scale}`);
  const sum = parts.join(' + ');
  return disp === 0 ? `[${sum}]` : `[${sum} ${disp < 0 ? '-' : '+'} ${Math.abs(disp)}]`;
}

function widestVector(operands: readonly Operand[]): number {
  let bits = 128;
  for (const operand of operands) {
    if (typeof operand === 'object' && operand.kind === 'vec') bits = Math.max(bits, operand.bits);
  }
  return bits;
}

/** Bytes behind a memory operand, as text must say them. */
function memoryBytes(instruction: Instruction, place: Mem): number | undefined {
  const { key, operands } = instruction;
  const vector = vectorRow(key);
  if (vector) {
    if (vector.form === 'rvg' || vector.form === 'movd') {
      return vector.form === 'rvg' ? (place.bytes ?? 4) : vector.tuple === 8 ? 8 : 4;
    }
    return tupleBytes(vector.tuple, Math.log2(widestVector(operands) / 128), place.broadcast).memory;
  }
  const general = generalRow(key);
  if (key === 'lea') return undefined;
  if (general?.form === 'touch') return 1;
  return general?.sourceBytes ?? operandBytes(operands);
}

/** Elements that a broadcast fills: those of the source, which a widening conversion reads half as many of. */
function broadcastLanes({ key, operands }: Instruction, elementBytes: number): number {
  const sourceBytes = widestVector(operands) / 8 / (vectorRow(key)?.tuple === 'half32' ? 2 : 1);
  return sourceBytes / elementBytes;
}

function operandText(instruction: Instruction, operand: Operand, position: number): string {
  if (typeof operand === 'number') return String(operand);
  if (operand.kind === 'label') return operand.name;
  if (operand.kind === 'mem') {
    const bytes = memoryBytes(instruction, operand);
    const prefix = bytes === undefined ? '' : `${sizeNames[bytes]} ptr `;
    const lanes = operand.broadcast && bytes ? `{1to${broadcastLanes(instruction, bytes)}}` : '';
    return `${prefix}${addressText(operand)}${lanes}`;
  }
  const row = generalRow(instruction.key);
  if (operand.kind === 'gpr' && row?.form === 'shift' && position === 1) return 'cl';
  if (operand.kind === 'gpr' && position === 1 && row?.sourceBits !== undefined) {
    if (row.sourceBits === 8) return registerName(r8of(operand));
    const name = registerName(r32(operand));
    if (row.sourceBits === 32) return name;
    return operand.id >= 8 ? name.replace(/d$/, 'w') : name.slice(1);
  }
  return registerName(operand);
}

/** One instruction as text. */
export function instructionText(instruction: Instruction): string {
  const { mnemonic, operands, key } = instruction;
  const row = vectorRow(key);
  // A few rows share name and operands between VEX and EVEX; say which is meant.
  const evexOnly = row?.vexW === undefined && row?.evexW !== undefined && !usesEvexAnyway(row, operands);
  const text = operands.map((operand, position) => operandText(instruction, operand, position)).join(', ');
  return `${evexOnly ? '{evex} ' : ''}${mnemonic}${text ? ` ${text}` : ''}`;
}

const usesEvexAnyway = (row: VectorRow, operands: readonly Operand[]): boolean =>
  usesEvex({ ...row, vexW: 0 }, operands);

/** One item as a line of assembly; alignment and constants appear as the bytes that they became. */
function itemText(item: Item, bytes: readonly number[]): string {
  switch (item.kind) {
    case 'instruction':
      return `  ${instructionText(item)}`;
    case 'jump':
      return `  ${item.jump} ${item.target.name}`;
    case 'label':
      return `${item.label.name}:`;
    case 'align':
    case 'data':
      return bytes.length > 0 ? `  .byte ${bytes.join(', ')}` : '';
  }
}

/** Assembly text of finished code: it assembles to the same bytes. */
export function assemblyText(code: MachineCode): string {
  return code.items
    .map(({ item, bytes }) => itemText(item, bytes))
    .filter((line) => line !== '')
    .join('\n');
}

/** Offset, bytes and assembly of each line, for people. */
export function listing(code: MachineCode): string {
  const lines = [`${code.name}: ${code.bytes.length} bytes`];
  for (const { item, offset, bytes } of code.items) {
    if (item.kind === 'label') {
      lines.push(`${item.label.name}:`);
      continue;
    }
    const hex = bytes.slice(0, 12).map((byte) => byte.toString(16).padStart(2, '0'));
    const text = item.kind === 'align' ? `align ${item.boundary}` : itemText(item, bytes).trim();
    lines.push(`${offset.toString(16).padStart(5)}  ${hex.join(' ').padEnd(36)} ${text.slice(0, 120)}`);
  }
  return lines.join('\n');
}
