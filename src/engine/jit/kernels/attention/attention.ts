// Owns the paged attention kernel: units of work, chunks of 512 positions, and the order of their phases.
// Legend: T tokens, H heads, G kv heads, K head dim. `attention.ref.ts` says what it computes.
import { invariant } from '../../../../common/errors.ts';
import { mem } from '../../asm/operands.ts';
import type { MachineCode } from '../../asm/program.ts';
import { type Gpr, rax, rbx } from '../../asm/registers.ts';
import type { Isa } from '../../cpu-features.ts';
import { attentionField, checkShape, type KvShape, partialRowBytes, shapeName } from '../abi.ts';
import { NUM_LANES } from '../lanes.ts';
import { emitOp } from '../op.ts';
import { stepLayout } from '../step-block.ts';
import { type Context, emitTokenOf, scratchAt, sizesOf, takeLocals, withGprs } from './context.ts';
import { emitMerge } from './merge.ts';
import { emitScores } from './scores.ts';
import { emitSoftmax } from './softmax.ts';
import { emitChunkBounds, emitFirstChunk, emitFirstFetch, emitStream } from './stream.ts';
import { emitMeeting, emitOutputs, emitQueries, emitUnit } from './unit.ts';
import { emitValues } from './values.ts';

/** Scratch memory of one thread, for any ISA. */
export function attentionScratchBytes(shape: KvShape): number {
  return Math.max(sizesOf(shape, 'avx2').scratch.numBytes, sizesOf(shape, 'avx512').scratch.numBytes);
}

/**
 * Reads queries [T,H,K] and writes outputs [T,H*K], F32 (`writeAttentionOp`). Reads the keys and values that the step's
 * `kv_write` stored. A piece is a tile of tokens, or a part of a token's positions, and a kv head.
 */
export function emitAttentionOp(shape: KvShape, isa: Isa): MachineCode {
  checkShape(shape);
  const sizes = sizesOf(shape, isa);
  let c: Context | undefined;
  return emitOp(
    `attention_${shapeName(shape)}_${isa}`,
    ({ a, f, op, thread }) => {
      c = { a, f, isa, sizes, locals: takeLocals(f), op, scratch: f.take(rbx) };
      const { locals } = c;
      for (const [local, field] of [
        [locals.queryData, attentionField.queries],
        [locals.queryHeadStride, attentionField.queryHeadBytes],
        [locals.queryTokenStride, attentionField.queryRowBytes],
        [locals.outData, attentionField.out],
        [locals.outRowBytes, attentionField.outRowBytes],
      ] as const) {
        a.mov(rax, mem(op, field));
        a.mov(local, rax);
      }
      a.mov(rax, thread);
      emitSetup(c, rax);
    },
    () => {
      invariant(c, 'pieces are cut before they are done');
      emitPiece(c);
    },
  );
}

/** What pieces share, to locals and the scratch register; the number of pieces to rax, which brings the thread. */
function emitSetup(c: Context, thread: Gpr): void {
  const { a, sizes, locals, op } = c;
  const { step } = stepLayout;
  a.mov(c.scratch, mem(op, attentionField.scratchBytes));
  a.imul(c.scratch, thread);
  a.add(c.scratch, mem(op, attentionField.scratch));
  a.mov(rax, mem(op, attentionField.window));
  a.mov(locals.window, rax);
  a.mov(rax, mem(op, attentionField.stepCell));
  a.mov(rax, mem(rax));
  a.mov(locals.step, rax);
  a.mov(rax, mem(rax, step.numTiles));
  a.imul3(rax, rax, sizes.shape.numKvHeads);
}

/** One unit of work, whose number is in rax. */
function emitPiece(c: Context): void {
  const { a, locals } = c;
  const done = a.label('piece_done');
  emitUnit(c);
  emitFirstChunk(c);
  const start = a.label('start');
  const chunk = a.here('chunk');
  emitChunkBounds(c);
  emitStream(c);
  a.cmp(locals.row, 0);
  a.jne(start);
  emitFirstFetch(c);
  emitQueries(c);
  a.bind(start);
  emitRowGroups(c);
  const isPart = a.label('is_part');
  const complete = a.label('complete');
  a.cmp(locals.numParts, 1);
  a.jne(isPart);
  withGprs(c, 2, (position, end) => {
    a.mov(position, locals.chunkEnd);
    a.mov(locals.position, position);
    a.mov(end, locals.firstPosition);
    a.add(end, locals.numTokens);
    a.cmp(position, end);
    a.jl(chunk);
  });
  a.jmp(complete);

  a.bind(isPart);
  emitMeeting(c, done);
  a.bind(complete);
  emitOutputs(c);
  a.bind(done);
}

/** The chunk's work for all rows of the unit, as many at a time as registers hold. */
function emitRowGroups(c: Context): void {
  const { a, sizes, locals } = c;
  const { blocking, scratch, shape } = sizes;
  const next = a.label('next_group');
  const compute = a.label('compute');
  const isPart = a.label('group_of_part');
  a.mov(locals.row, 0);
  const groups = a.here('row_group');
  withGprs(c, 2, (rows, end) => {
    a.mov(rows, locals.numRows);
    a.sub(rows, locals.row);
    a.mov(end, blocking.maxRows);
    a.cmp(rows, end);
    a.cmovg(rows, end);
    a.mov(locals.groupRows, rows);
    // Behind the position of the last row's token.
    a.add(rows, locals.row);
    a.sub(rows, 1);
    emitTokenOf(c, rows);
    a.mov(end, rows);
    a.add(end, locals.firstPosition);
    a.add(end, 1);
    a.cmp(end, locals.chunkEnd);
    a.cmovg(end, locals.chunkEnd);
    a.mov(locals.groupEnd, end);
    // Rows that end before the chunk see nothing of it.
    a.cmp(end, locals.position);
    a.jle(next);
    a.sub(end, locals.chunkStart);
    a.add(end, NUM_LANES - 1);
    a.and(end, -NUM_LANES);
    a.mov(locals.endColumn, end);
    a.sub(end, locals.firstColumn);
    a.shr(end, Math.log2(NUM_LANES));
    a.mov(locals.groupTiles, end);
    a.cmp(locals.numParts, 1);
    a.jne(compute);
    a.lea(end, scratchAt(c, scratch.partial));
    a.mov(locals.partial, end);
  });
  a.bind(compute);
  emitScores(c);
  emitSoftmax(c);
  emitValues(c);
  a.cmp(locals.numParts, 1);
  a.jne(isPart);
  emitMerge(c, locals.row, locals.groupRows);
  a.jmp(next);
  a.bind(isPart);
  withGprs(c, 1, (bytes) => {
    a.imul3(bytes, locals.groupRows, partialRowBytes(shape));
    a.add(locals.partial, bytes);
  });
  a.bind(next);
  withGprs(c, 1, (row) => {
    a.mov(row, locals.row);
    a.add(row, locals.groupRows);
    a.mov(locals.row, row);
    a.cmp(row, locals.numRows);
    a.jl(groups);
  });
}
