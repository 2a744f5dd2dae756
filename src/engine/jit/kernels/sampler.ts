// Owns the emitted sampler: one graph node that turns every output's logits into a token and its log-probability.
import { emitFunction } from '../asm/function.ts';
import { mem, sized } from '../asm/operands.ts';
import type { MachineCode } from '../asm/program.ts';
import { r8, r32, rax, rcx, rdi, rdx, rsi, xmm } from '../asm/registers.ts';
import type { Isa } from '../cpu-features.ts';
import { tensorField } from './abi.ts';
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

/** Bytes between the rows of a matrix. */
const rowStride = tensorField.nb + 8;

/**
 * `void fn(ggml_tensor *results, int ith, int nth, void *cell)`: source 0 is F32 [O, V], results I32 [O, resultElements(V)],
 * the cell points to a sample block (sampler-abi.ts). Output o is the work of thread o mod nth, and depends on its own row alone.
 */
export function emitSampler(isa: Isa): MachineCode {
  return emitFunction(`sampler_${isa}`, 4, (a, frame) => {
    const [results, thread, numThreads, block] = [rdi, rsi, rdx, rcx];
    const local = { block: frame.local(), results: frame.local(), output: frame.local(), numThreads: frame.local() };
    const logitsTensor = frame.local();
    const at: RowLocals = {
      block: local.block,
      tail: frame.local(64),
      tailStart: frame.local(),
      maxima: frame.local(),
      maximaEnd: frame.local(),
      candidates: frame.local(),
      weights: frame.local(),
      rawMax: frame.local(),
      rawMaxBlock: frame.local(),
      scaledMax: frame.local(),
      scaledMaxChunk: frame.local(),
    };
    const code: RowCode = { a, simd: new Simd(a, isa), at };

    a.mov(block, mem(block));
    a.mov(local.block, block);
    a.mov(local.results, results);
    a.mov(r32(thread), r32(thread));
    a.mov(local.output, thread);
    a.mov(r32(numThreads), r32(numThreads));
    a.mov(local.numThreads, numThreads);
    a.mov(rax, mem(results, tensorField.src));
    a.mov(logitsTensor, rax);
    a.mov(r32(numIds), mem(block, headerField.numIds));
    a.lea(numChunks, mem(numIds, 15));
    a.shr(numChunks, 4);
    a.mov(scaled, mem(block, headerField.scratchStride));
    a.imul(scaled, thread);
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

    const output = a.here('output');
    const next = a.label('next');
    a.mov(rax, local.output);
    a.mov(rcx, local.block);
    a.cmp(r32(rax), mem(rcx, headerField.numOutputs));
    a.jae(frame.exit);
    a.imul3(row, rax, rowBytes);
    a.lea(row, mem(row, headerBytes, { index: rcx }));
    a.mov(rdi, local.results);
    a.mov(result, mem(rdi, rowStride));
    a.imul(result, rax);
    a.add(result, mem(rdi, tensorField.data));
    a.mov(rsi, logitsTensor);
    a.mov(logits, mem(rsi, rowStride));
    a.imul(logits, rax);
    a.add(logits, mem(rsi, tensorField.data));

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
    a.mov(rax, local.numThreads);
    a.add(local.output, rax);
    a.jmp(output);
  });
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
