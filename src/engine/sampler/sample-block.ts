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
  const numBytes = sampleBlockBytes(input);
  const view = new DataView(buffer, byteOffset, numBytes);
  const words = new Int32Array(buffer, byteOffset, numBytes / 4);
  const floats = new Float32Array(buffer, byteOffset, numBytes / 4);
  view.setBigUint64(headerField.scratch, BigInt(scratch), true);
  view.setBigUint64(headerField.scratchStride, BigInt(scratchBytes), true);
  view.setInt32(headerField.numOutputs, numOutputs, true);
  view.setInt32(headerField.numIds, numIds, true);
  let editsAt = headerBytes + numOutputs * rowBytes;
  for (let output = 0; output < numOutputs; output++) {
    const task = taskOf(input, output);
    const row = new DataView(buffer, byteOffset + headerBytes + output * rowBytes, rowBytes);
    row.setInt32(rowField.wantsStats, wantsStats(task) ? 1 : 0, true);
    if (task.kind === 'target') row.setInt32(rowField.targetId, task.targetId, true);
    const edits = task.kind === 'sample' ? task.row.edits : null;
    const constants = task.kind === 'sample' ? rowConstants(task.row, numIds) : null;
    row.setInt32(rowField.mode, modeOf(task, constants), true);
    if (constants) writeConstants(row, constants);
    const numEdits = edits ? writeEdits(words, floats, editsAt / 4, edits, numIds) : 0;
    row.setInt32(rowField.numEdits, numEdits, true);
    row.setBigInt64(rowField.edits, BigInt(editsAt), true);
    editsAt += numEdits * editBytes;
  }
}

function modeOf(task: SamplerTask, constants: RowConstants | null): number {
  if (task.kind !== 'sample') return rowMode[task.kind];
  if (!constants?.isGreedy) return rowMode.draw;
  return task.row.edits && task.row.edits.tokenIds.length > 0 ? rowMode.editedArgMax : rowMode.argMax;
}

function writeConstants(row: DataView, constants: RowConstants): void {
  row.setFloat32(rowField.inverseTemperature, constants.inverseTemperature, true);
  row.setFloat32(rowField.minPOffset, constants.minPOffset, true);
  row.setFloat32(rowField.topP, constants.topP, true);
  row.setInt32(rowField.topK, constants.topK, true);
  row.setInt32(rowField.key0, constants.key0, true);
  row.setInt32(rowField.key1, constants.key1, true);
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
