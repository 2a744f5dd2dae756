// Owns the damage test: seeded mutations of valid weight files open or give an XllmError, and nothing grows.
import { readdirSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { XllmError } from '../../src/common/errors.ts';
import { openSafetensorsFile, openWeights } from '../../src/files/open-weights.ts';
import { sampleGguf, sampleSafetensors } from './sample-files.ts';
import { putFile, useTempFolder } from './temp-folder.ts';

const folder = useTempFolder('hostile');
const numInputs = process.env['XLLM_TEST_FULL'] ? 10_000 : 500;

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

type Random = (below: number) => number;

/** xorshift32: the same inputs on every run. */
function seeded(seed: number): Random {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

const lengths = [0n, 1n, 0xffn, 0x7fff_ffffn, 0xffff_ffffn, 2n ** 32n, 2n ** 53n, 2n ** 60n, 2n ** 63n, 2n ** 64n - 1n];

/** One to four of: other bytes, a hostile length, a cut, a piece removed, a piece repeated. */
function damaged(valid: Uint8Array, random: Random): Uint8Array {
  let bytes = Buffer.from(valid);
  for (let count = 1 + random(4); count > 0 && bytes.length > 8; count--) {
    const at = random(bytes.length - 8);
    const length = 1 + random(Math.min(64, bytes.length - at));
    switch (random(6)) {
      case 0:
        for (let i = 0; i < 1 + random(4); i++) bytes[random(bytes.length)] = random(256);
        break;
      case 1:
        bytes.writeBigUInt64LE(lengths[random(lengths.length)] as bigint, at);
        break;
      case 2:
        bytes.writeUInt32LE(Number((lengths[random(lengths.length)] as bigint) & 0xffff_ffffn), at);
        break;
      case 3:
        bytes = bytes.subarray(0, at);
        break;
      case 4:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + length)]);
        break;
      default:
        bytes = Buffer.concat([bytes.subarray(0, at + length), bytes.subarray(at)]);
    }
  }
  return bytes;
}

function heldBytes(): number {
  collectGarbage();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

const numDescriptors = () => readdirSync('/proc/self/fd').length;

const cases = [
  { name: 'GGUF', valid: sampleGguf(), file: 'm.gguf', open: openWeights },
  {
    name: 'safetensors',
    valid: sampleSafetensors(),
    file: 'm.safetensors',
    open: async (path: string) => openSafetensorsFile(path),
  },
];

describe.each(cases)('$name files damaged at random', ({ valid, file, open }) => {
  it(`give an XllmError or open, ${numInputs} times, and nothing grows`, async () => {
    const random = seeded(20_261_123);
    let numOpened = 0;
    let before = 0;
    const descriptors = numDescriptors();
    for (let i = 0; i < numInputs; i++) {
      if (i === 100) before = heldBytes();
      const path = putFile(folder, file, damaged(valid, random));
      try {
        (await open(path)).close();
        numOpened++;
      } catch (error) {
        if (!(error instanceof XllmError)) throw new Error(`input ${i}`, { cause: error });
      }
    }
    expect(heldBytes() - before).toBeLessThan(16 << 20);
    expect(numDescriptors()).toBe(descriptors);
    // Both outcomes occur, or the damage is not worth its name.
    expect(numOpened).toBeGreaterThan(numInputs / 100);
    expect(numOpened).toBeLessThan(numInputs / 2);
  });
});
