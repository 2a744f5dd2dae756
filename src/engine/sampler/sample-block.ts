// Owns writing a step's sample block, which the emitted sampler reads. Layout: jit/kernels/sampler-abi.ts.
import {
  editBytes,
  editField,
  headerBytes,
  headerField,
  rowBytes,
  rowField,
  rowMode,
} from '../jit/kernels/sampler-abi.ts';
import type { LogitEdits } from '../scheduler/sampling-params.ts';
import { type RowConstants, rowConstants } from './row-constants.ts';
import { type SamplerInput, type SamplerTask, taskOf, wantsStats } from './sampler-task.ts';

/** Bytes that the step's block takes. */
export function sampleBlockBytes({ sampling }: SamplerInput): number {
  const numEdits = sampling.reduce((sum, { edits }) => sum + (edits?.tokenIds.length ?? 0), 0);
  return headerBytes + sampling.length * rowBytes + numEdits * editBytes;
}

export interface SampleBlockOptions {
  /** Ids that have a token; at most the vocabulary size. */
  readonly numIds: number;
  /** Memory aligned to 64 bytes, `scratchBytes(vocabSize)` for each thread. */
  readonly scratch: number;
  readonly scratchBytes: number;
}

/** Writes `sampleBlockBytes(input)` at `byteOffset`, a multiple of 4. Target ids must be below the vocabulary size. */
export function writeSampleBlock(
  buffer: ArrayBuffer,
  byteOffset: number,
  input: SamplerInput,
  { numIds, scratch, scratchBytes }: SampleBlockOptions,
): void {
  const numOutputs = input.sampling.length;
  const numWords = sampleBlockBytes(input) / 4;
  const words = new Int32Array(buffer, byteOffset, numWords);
  const floats = new Float32Array(buffer, byteOffset, numWords);
  setU64(words, headerField.scratch / 4, scratch);
  setU64(words, headerField.scratchStride / 4, scratchBytes);
  words[headerField.numIds / 4] = numIds;
  let row = headerBytes / 4;
  let editsAt = headerBytes + numOutputs * rowBytes;
  for (let output = 0; output < numOutputs; output++) {
    const task = taskOf(input, output);
    words[row + rowField.wantsStats / 4] = wantsStats(task) ? 1 : 0;
    if (task.kind === 'target') words[row + rowField.targetId / 4] = task.targetId;
    const edits = task.kind === 'sample' ? task.row.edits : null;
    const constants = task.kind === 'sample' ? rowConstants(task.row, numIds) : null;
    words[row + rowField.mode / 4] = modeOf(task, constants);
    if (constants) writeConstants(words, floats, row, constants);
    const numEdits = edits ? writeEdits(words, floats, editsAt / 4, edits, numIds) : 0;
    words[row + rowField.numEdits / 4] = numEdits;
    setU64(words, row + rowField.edits / 4, editsAt);
    editsAt += numEdits * editBytes;
    row += rowBytes / 4;
  }
}

/** Addresses and offsets are exact as doubles (below 2^53). */
function setU64(words: Int32Array, word: number, value: number): void {
  words[word] = value % 2 ** 32;
  words[word + 1] = Math.floor(value / 2 ** 32);
}

function modeOf(task: SamplerTask, constants: RowConstants | null): number {
  if (task.kind !== 'sample') return rowMode[task.kind];
  if (!constants?.isGreedy) return rowMode.draw;
  return task.row.edits && task.row.edits.tokenIds.length > 0 ? rowMode.editedArgMax : rowMode.argMax;
}

function writeConstants(words: Int32Array, floats: Float32Array, row: number, constants: RowConstants): void {
  floats[row + rowField.inverseTemperature / 4] = constants.inverseTemperature;
  floats[row + rowField.minPOffset / 4] = constants.minPOffset;
  floats[row + rowField.topP / 4] = constants.topP;
  words[row + rowField.topK / 4] = constants.topK;
  words[row + rowField.key0 / 4] = constants.key0;
  words[row + rowField.key1 / 4] = constants.key1;
}

/** Returns how many were written: edits of ids without a token have no effect. */
function writeEdits(
  words: Int32Array,
  floats: Float32Array,
  firstWord: number,
  { tokenIds, scalePositive, scaleNegative, add }: LogitEdits,
  numIds: number,
): number {
  let word = firstWord;
  for (let e = 0; e < tokenIds.length; e++) {
    const id = tokenIds[e]!;
    if (id < 0 || id >= numIds) continue;
    words[word + editField.tokenId / 4] = id;
    floats[word + editField.scalePositive / 4] = scalePositive[e]!;
    floats[word + editField.scaleNegative / 4] = scaleNegative[e]!;
    floats[word + editField.add / 4] = add[e]!;
    word += editBytes / 4;
  }
  return ((word - firstWord) * 4) / editBytes;
}
