// Owns the emitted sampler: the op that turns every output's logits into a token and its log-probability.
import type { Address } from '../../ffi/koffi.ts';
import { mem, sized } from '../asm/operands.ts';
import type { MachineCode } from '../asm/program.ts';
import { r8, r32, rax, rcx, rdx, xmm } from '../asm/registers.ts';
import type { Isa } from '../cpu-features.ts';
import { emitOp, OP_FIELDS, type OpBlock } from './op.ts';
import { headerBytes, headerField, resultField, resultFlag, rowBytes, rowField, rowMode } from './sampler-abi.ts';
import { emitDraw } from './sampler-noise.ts';
import { emitFindRawMax, emitRawMaxima, emitStats } from './sampler-raw.ts';
import {
  emitTail,
  logits,
  numChunks,
  numIds,
  type RowCode,
  type RowLocals,
  result,
  row,
  scaled,
} from './sampler-row.ts';
import { emitFindScaledMax, emitScale } from './sampler-scale.ts';
import { emitThreshold } from './sampler-threshold.ts';
import { Simd } from './sampler-vector.ts';

const samplerField = {
  cell: OP_FIELDS,
  logits: OP_FIELDS + 8,
  logitsRowBytes: OP_FIELDS + 16,
  results: OP_FIELDS + 24,
  resultsRowBytes: OP_FIELDS + 32,
} as const;
export const SAMPLER_OP_BYTES = OP_FIELDS + 40;

export interface SamplerOp {
  /** Address of 8 bytes that hold the address of the step's sample block (sampler-abi.ts). */
  readonly cell: Address;
  /** F32 [O,V] */
  readonly logits: Address;
  readonly logitsRowBytes: number;
  /** I32 [O, resultElements(V)] */
  readonly results: Address;
  readonly resultsRowBytes: number;
}

export function writeSamplerOp(block: OpBlock, op: SamplerOp): void {
  for (const [name, field] of Object.entries(samplerField) as [keyof SamplerOp, number][]) block.set(field, op[name]);
}

/** Rows are the step's outputs, one piece each; an output's result depends on its own row alone. */
export function emitSampler(isa: Isa): MachineCode {
  let at: RowLocals;
  return emitOp(
    `sampler_${isa}`,
    ({ a, f, numRows }) => {
      at = {
        block: f.local(),
        tail: f.local(64),
        tailStart: f.local(),
        maxima: f.local(),
        maximaEnd: f.local(),
        candidates: f.local(),
        weights: f.local(),
        rawMax: f.local(),
        rawMaxBlock: f.local(),
        scaledMax: f.local(),
        scaledMaxChunk: f.local(),
      };
      a.mov(rax, numRows);
    },
    ({ a, f, op, thread }) => {
      const code: RowCode = { a, simd: new Simd(a, isa), at };
      const savedOp = f.local();
      const block = rcx;
      // The passes use every register.
      a.mov(savedOp, op);
      a.mov(block, mem(op, samplerField.cell));
      a.mov(block, mem(block));
      a.mov(at.block, block);
      a.imul3(row, rax, rowBytes);
      a.lea(row, mem(row, headerBytes, { index: block }));
      a.mov(result, mem(op, samplerField.resultsRowBytes));
      a.imul(result, rax);
      a.add(result, mem(op, samplerField.results));
      a.mov(logits, mem(op, samplerField.logitsRowBytes));
      a.imul(logits, rax);
      a.add(logits, mem(op, samplerField.logits));
      a.mov(r32(numIds), mem(block, headerField.numIds));
      a.lea(numChunks, mem(numIds, 15));
      a.shr(numChunks, 4);
      a.mov(scaled, thread);
      a.imul(scaled, mem(block, headerField.scratchStride));
      a.add(scaled, mem(block, headerField.scratch));
      // The layout that scratchBytes adds up: scaled logits, maxima, candidates, weights.
      a.mov(rax, numChunks);
      a.shl(rax, 6);
      a.lea(r8, mem(scaled, 0, { index: rax }));
      a.mov(at.maxima, r8);
      a.lea(rdx, mem(numChunks, 15));
      a.and(rdx, -16);
      a.lea(r8, mem(r8, 0, { index: rdx, scale: 4 }));
      a.mov(at.candidates, r8);
      a.add(r8, rax);
      a.mov(at.weights, r8);

      const next = a.label('next');
      a.cmp(sized(mem(row, rowField.mode), 4), rowMode.skip);
      a.je(next);
      a.mov(sized(mem(result, resultField.flags), 4), 0);
      emitTail(code);
      emitToken(code);
      a.mov(mem(result, resultField.tokenId), r32(rax));
      a.cmp(sized(mem(row, rowField.wantsStats), 4), 0);
      a.je(next);
      emitStats(code);
      a.bind(next);
      a.mov(op, savedOp);
    },
  );
}

/** eax = the row's token: sampled, or the one to report on. */
function emitToken(code: RowCode): void {
  const { a, at } = code;
  const [raw, chosen, processed, nothing, drawn] = [
    a.label('raw'),
    a.label('chosen'),
    a.label('processed'),
    a.label('nothing'),
    a.label('draw'),
  ];
  const mode = sized(mem(row, rowField.mode), 4);
  const noRaw = a.label('noRaw');

  a.cmp(sized(mem(row, rowField.wantsStats), 4), 0);
  a.jne(raw);
  a.cmp(mode, rowMode.argMax);
  a.jne(noRaw);
  a.bind(raw);
  emitRawMaxima(code);
  a.bind(noRaw);

  a.mov(r32(rax), mem(row, rowField.targetId));
  a.cmp(mode, rowMode.target);
  a.je(chosen);
  a.cmp(mode, rowMode.argMax);
  a.jne(processed);
  a.vmovss(xmm(0), at.rawMax);
  a.vucomiss(xmm(0), a.f32(-Infinity));
  a.je(nothing);
  emitFindRawMax(code);
  a.jmp(chosen);

  a.bind(processed);
  emitScale(code);
  a.vmovss(xmm(0), at.scaledMax);
  a.vucomiss(xmm(0), a.f32(-Infinity));
  a.je(nothing);
  a.cmp(mode, rowMode.draw);
  a.je(drawn);
  emitFindScaledMax(code);
  a.jmp(chosen);
  a.bind(drawn);
  emitThreshold(code);
  emitDraw(code);
  a.jmp(chosen);

  a.bind(nothing);
  a.or(sized(mem(result, resultField.flags), 4), resultFlag.noCandidate);
  a.mov(r32(rax), 0);
  a.bind(chosen);
}
