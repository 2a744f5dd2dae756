// Bytes of every row of the tables: as recorded, and as GNU as makes them.
import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { gnuAssemble } from './testing/gnu-as.ts';
import type { Instruction } from './program.ts';
import { allKeys, instructionsOf, otherInstructions } from './testing/shapes.ts';
import { instructionText } from './text.ts';

const hex = (bytes: readonly number[]) => bytes.map((byte) => byte.toString(16).padStart(2, '0')).join('');

const everything = (): { key: string; instructions: Instruction[] }[] => [
  ...allKeys.map((key) => ({ key, instructions: instructionsOf(key) })),
  { key: 'mov, push, pop, set', instructions: otherInstructions() },
];

test('every row has shapes, and their bytes are the recorded ones', async () => {
  const lines: string[] = [];
  const hash = createHash('sha256');
  for (const { key, instructions } of everything()) {
    expect(instructions.length, key).toBeGreaterThan(0);
    for (const { bytes } of instructions) hash.update(Uint8Array.from(bytes));
    // Three of them to read; the hash covers all.
    for (const index of new Set([0, instructions.length >> 1, instructions.length - 1])) {
      const instruction = instructions[index];
      if (instruction) lines.push(`${hex(instruction.bytes).padEnd(24)} ${instructionText(instruction)}`);
    }
  }
  lines.push(`sha256 of all: ${hash.digest('hex')}`);
  await expect(`${lines.join('\n')}\n`).toMatchFileSnapshot('recorded-bytes.txt');
});

test('GNU as makes the same bytes', () => {
  const instructions = everything().flatMap((entry) => entry.instructions);
  const theirs = gnuAssemble(instructions.map(instructionText).join('\n'));
  let at = 0;
  for (const instruction of instructions) {
    const ours = hex(instruction.bytes);
    const slice = hex([...theirs.subarray(at, at + instruction.bytes.length)]);
    if (slice !== ours)
      expect(`${instructionText(instruction)} ${slice}`).toBe(`${instructionText(instruction)} ${ours}`);
    at += instruction.bytes.length;
  }
  expect(at).toBe(theirs.length);
});
