// Owns the paged attention kernel: units of work, chunks of 512 positions, and the order of their phases.
// Legend: T tokens, H heads, G kv heads, K head dim. `attention.ref.ts` says what it computes.
import { invariant } from '../../../../common/errors.ts';
import { emitFunction } from '../../asm/function.ts';
import { type Label, mem, sized } from '../../asm/operands.ts';
import type { MachineCode } from '../../asm/program.ts';
import { type Gpr, r32, rax, rbx, rdx, xmm } from '../../asm/registers.ts';
import type { Isa } from '../../cpu-features.ts';
import {
  attentionField,
  checkShape,
  countersBytes,
  headBytes,
  type KvShape,
  partialBytes,
  partialRowBytes,
  stepLayout,
  TILE_TOKENS,
  tensorField,
  tileBytes,
} from '../abi.ts';
import { Lanes, NUM_LANES } from '../lanes.ts';
import { emitOp, opField } from '../op.ts';
import { CHUNK_POSITIONS } from '../tiles.ts';
import {
  type Context,
  emitPrefetch,
  emitTokenOf,
  LOWEST_MAX,
  scratchAt,
  sizesOf,
  takeLocals,
  TILES_AHEAD,
  withGprs,
} from './context.ts';
import { emitMerge } from './merge.ts';
import { emitScores } from './scores.ts';
import { emitSoftmax } from './softmax.ts';
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
    `attention_${isa}`,
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

/**
 * The same as a ggml custom operation: src[0] queries; further sources only order the nodes. dst [T,H*K], F32, dense;
 * padding tokens become 0.
 */
export function emitAttention(shape: KvShape, isa: Isa): MachineCode {
  checkShape(shape);
  return emitFunction(`attention_node_${isa}`, 4, (a, f) => {
    const [dst, ith, nth, op] = f.args as [Gpr, Gpr, Gpr, Gpr];
    const sizes = sizesOf(shape, isa);
    f.take(rax);
    const c: Context = { a, f, isa, sizes, locals: takeLocals(f), op, scratch: f.take(rbx) };
    const { locals } = c;
    a.movsxd(ith, ith);
    a.movsxd(nth, nth);
    const [numUnits, numThreads] = [f.local(), f.local()];
    a.mov(numThreads, nth);
    a.mov(rax, ith);
    emitSetup(c, rax);
    a.mov(numUnits, rax);
    emitTensors(c, { dst, ith, nth });
    f.release(dst, ith, nth);

    const claim = a.here('claim');
    const finished = a.label('finished');
    a.mov(rax, 1);
    a.lockXadd(mem(op, opField.claimed), rax);
    a.cmp(rax, numUnits);
    a.jge(finished);
    emitPiece(c);
    a.jmp(claim);

    a.bind(finished);
    // The last thread to finish leaves the counters ready for the next node.
    a.mov(rax, 1);
    a.lockXadd(mem(op, opField.finished), rax);
    a.add(rax, 1);
    a.cmp(rax, numThreads);
    a.jne(f.exit);
    a.mov(sized(mem(op, opField.claimed), 8), 0);
    a.mov(sized(mem(op, opField.finished), 8), 0);
  });
}

/** Where queries and outputs of a node lie, to locals; this thread's padding tokens to 0. */
function emitTensors(c: Context, { dst, ith, nth }: Readonly<Record<'dst' | 'ith' | 'nth', Gpr>>): void {
  const { a, f, sizes, locals } = c;
  const { shape } = sizes;
  const { step } = stepLayout;
  const rowBytes = shape.numHeads * shape.headDim * 4;
  withGprs(c, 2, (value, block) => {
    a.mov(locals.outRowBytes, rowBytes);
    const query = f.gpr();
    a.mov(query, mem(dst, tensorField.src));
    for (const [local, field] of [
      [locals.queryData, tensorField.data],
      [locals.queryHeadStride, tensorField.nb + 8],
      [locals.queryTokenStride, tensorField.nb + 16],
    ] as const) {
      a.mov(value, mem(query, field));
      a.mov(local, value);
    }
    f.release(query);
    const out = dst;
    a.mov(out, mem(dst, tensorField.data));
    a.mov(locals.outData, out);

    const [end, place] = [f.gpr(), f.gpr()];
    const token = ith;
    a.mov(block, locals.step);
    a.movsxd(end, mem(block, step.paddedTokens));
    a.movsxd(value, mem(block, step.numTokens));
    a.add(token, value);
    const padding = a.label('padding');
    const done = a.label('padding_done');
    const zero = xmm(0);
    a.bind(padding);
    a.cmp(token, end);
    a.jge(done);
    a.imul3(place, token, rowBytes);
    a.add(place, out);
    a.mov(value, rowBytes / 64);
    a.vxorps(zero, zero, zero);
    const line = a.here('padding_line');
    for (let at = 0; at < 64; at += 16) a.vmovups(mem(place, at), zero);
    a.add(place, 64);
    a.sub(value, 1);
    a.jne(line);
    a.add(token, nth);
    a.jmp(padding);
    a.bind(done);
    f.release(end, place);
  });
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
  a.movsxd(rax, mem(rax, step.numTiles));
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

/** The tile and kv head of the unit whose number is in rax, to locals. */
function emitUnit(c: Context): void {
  const { a, f, sizes, locals } = c;
  const { shape } = sizes;
  const { tile } = stepLayout;
  const unit = rax;
  // Division uses rax and rdx.
  const head = f.take(rdx);
  withGprs(c, 2, (record, value) => {
    a.mov(value, shape.numKvHeads);
    a.mov(r32(head), 0);
    a.div(value);
    a.mov(locals.kvHead, head);
    a.imul3(record, unit, stepLayout.tileBytes);
    a.mov(value, locals.step);
    a.add(record, mem(value, stepLayout.step.tiles));
    a.add(record, value);
    a.add(value, mem(record, tile.segments));
    a.mov(locals.segment, value);
    for (const field of ['firstToken', 'firstPosition', 'partStart', 'numParts', 'numTokens'] as const) {
      a.movsxd(value, mem(record, tile[field]));
      a.mov(locals[field], value);
    }
    a.imul3(value, value, sizes.group); // numTokens came last
    a.mov(locals.numRows, value);
    a.mov(locals.row, 0);
    const whole = a.label('whole');
    a.cmp(locals.numParts, 1);
    a.je(whole);
    a.mov(value, locals.step);
    a.add(value, mem(record, tile.shared));
    a.lea(value, mem(value, 0, { index: head, scale: 8 }));
    a.mov(locals.counter, value);
    // Back to the start of what is shared, then to this head's results.
    a.shl(head, 3);
    a.sub(value, head);
    a.shr(head, 3);
    a.imul(head, locals.numParts);
    a.imul3(head, head, partialBytes(shape));
    a.add(value, head);
    a.add(value, countersBytes(shape));
    a.mov(locals.parts, value);
    a.movsxd(head, mem(record, tile.part));
    a.imul3(head, head, partialBytes(shape));
    a.add(value, head);
    a.mov(locals.partial, value);
    a.bind(whole);
  });
  f.release(head);
}

/** The tile's queries times the scale, row by row (token, then head), to scratch; rows start empty. */
function emitQueries(c: Context): void {
  const { a, sizes, locals } = c;
  const { scratch, shape, group } = sizes;
  const lanes = new Lanes(a, c.isa);
  const [scale, values, zero] = [lanes.takeSplat(), lanes.take(), lanes.takeSplat()];
  lanes.zero(zero);
  withGprs(c, 6, (token, source, out, head, row, value) => {
    lanes.broadcast(scale, mem(c.op, attentionField.queryScale));
    a.lea(out, scratchAt(c, scratch.queries));
    a.mov(token, 0);
    a.mov(row, 0);
    const tokens = a.here('query_token');
    a.mov(source, locals.firstToken);
    a.add(source, token);
    a.imul(source, locals.queryTokenStride);
    a.imul3(value, locals.kvHead, group);
    a.imul(value, locals.queryHeadStride);
    a.add(source, value);
    a.add(source, locals.queryData);
    a.mov(head, group);
    const heads = a.here('query_head');
    for (let d = 0; d < shape.headDim; d += NUM_LANES) {
      lanes.op('vmulps', values, scale, mem(source, 4 * d));
      lanes.store(mem(out, 4 * d), values);
      lanes.store(mem(out, 4 * d + scratch.sums - scratch.queries), zero);
    }
    a.mov(sized(mem(c.scratch, scratch.maxima, { index: row, scale: 4 }), 4), floatBits(LOWEST_MAX));
    a.mov(sized(mem(c.scratch, scratch.totals, { index: row, scale: 4 }), 4), 0);
    a.add(out, shape.headDim * 4);
    a.add(source, locals.queryHeadStride);
    a.add(row, 1);
    a.sub(head, 1);
    a.jne(heads);
    a.add(token, 1);
    a.cmp(token, locals.numTokens);
    a.jl(tokens);
  });
}

const floatBits = (value: number): number => new Int32Array(Float32Array.of(value).buffer)[0] ?? 0;

/** Where a part starts; else the first position that the tile's first token sees, rounded down to a tile of 16. */
function emitFirstChunk(c: Context): void {
  const { a, locals } = c;
  withGprs(c, 2, (position, zero) => {
    const found = a.label('first_found');
    a.mov(position, locals.partStart);
    a.cmp(locals.numParts, 1);
    a.jne(found);
    a.mov(position, locals.firstPosition);
    a.add(position, 1);
    a.sub(position, locals.window);
    a.mov(zero, 0);
    a.cmp(position, zero);
    a.cmovl(position, zero);
    a.and(position, -NUM_LANES);
    a.bind(found);
    a.mov(locals.position, position);
  });
}

/** The chunk from `position` on: to the next multiple of 512, or the position behind the tile's last token. */
function emitChunkBounds(c: Context): void {
  const { a, locals } = c;
  withGprs(c, 4, (position, start, end, last) => {
    a.mov(position, locals.position);
    a.mov(start, position);
    a.and(start, -CHUNK_POSITIONS);
    a.mov(locals.chunkStart, start);
    a.lea(end, mem(start, CHUNK_POSITIONS));
    a.mov(last, locals.firstPosition);
    a.add(last, locals.numTokens);
    a.cmp(end, last);
    a.cmovg(end, last);
    a.mov(locals.chunkEnd, end);
    a.sub(position, start);
    a.mov(locals.firstColumn, position);
    a.sub(end, start);
    a.add(end, NUM_LANES - 1);
    a.and(end, -NUM_LANES);
    a.sub(end, position);
    a.shr(end, Math.log2(NUM_LANES));
    a.mov(locals.numTiles, end);
  });
}

/**
 * Addresses of the tiles that the chunk reads: its keys, its values, then the next chunk's first keys, to be fetched
 * meanwhile; behind the row's last position its tile again.
 */
function emitStream(c: Context): void {
  const { a, sizes, locals } = c;
  const { segment, segmentBytes } = stepLayout;
  const { shape, scratch } = sizes;
  const { blockTokens } = shape;
  const tilesPerBlock = blockTokens / TILE_TOKENS;
  withGprs(c, 8, (position, place, tile, record, end, value, numTiles, last) => {
    a.mov(position, locals.position);
    a.mov(tile, 0);
    a.mov(record, locals.segment);
    a.mov(numTiles, locals.numTiles);
    a.mov(last, locals.firstPosition);
    a.add(last, locals.numTokens);
    a.sub(last, 1);
    const tiles = a.here('address');
    const found = a.label('segment_found');
    const ahead = a.label('address_ahead');
    const next = a.label('next_address');
    const find = a.here('segment');
    a.movsxd(place, mem(record, segment.firstPosition));
    a.movsxd(end, mem(record, segment.numTokens));
    a.add(end, place);
    a.cmp(position, end);
    a.jl(found);
    a.add(record, segmentBytes);
    a.jmp(find);
    a.bind(found);
    // Position in the segment, then its block's page and its tile there.
    a.neg(place);
    a.add(place, position);
    a.mov(value, place);
    a.sar(value, Math.log2(blockTokens));
    a.imul(value, mem(c.op, attentionField.pageBytes));
    a.add(value, mem(record, segment.page));
    if (tilesPerBlock > 1) {
      a.sar(place, Math.log2(TILE_TOKENS));
      a.and(place, tilesPerBlock - 1);
      a.imul3(place, place, tileBytes(shape));
      a.add(value, place);
    }
    a.imul3(place, locals.kvHead, headBytes(shape));
    a.add(value, place);
    a.mov(place, value);
    a.add(value, mem(c.op, attentionField.keyOffset));
    a.add(place, mem(c.op, attentionField.valueOffset));
    a.cmp(tile, numTiles);
    a.jge(ahead);
    a.mov(mem(c.scratch, scratch.stream, { index: tile, scale: 8 }), value);
    a.lea(end, mem(tile, 0, { index: numTiles }));
    a.mov(mem(c.scratch, scratch.stream, { index: end, scale: 8 }), place);
    a.mov(locals.segment, record);
    a.jmp(next);
    a.bind(ahead);
    a.lea(end, mem(tile, 0, { index: numTiles }));
    a.mov(mem(c.scratch, scratch.stream, { index: end, scale: 8 }), value);
    a.bind(next);
    a.add(tile, 1);
    a.add(position, NUM_LANES);
    a.cmp(position, last);
    a.cmovg(position, last);
    a.lea(end, mem(numTiles, 2 * TILES_AHEAD));
    a.cmp(tile, end);
    a.jl(tiles);
  });
}

/** Fetches the first tiles of keys at once: nothing did so before. */
function emitFirstFetch(c: Context): void {
  const { a, sizes } = c;
  const { shape, scratch } = sizes;
  withGprs(c, 2, (tile, place) => {
    a.mov(tile, 0);
    const tiles = a.here('first_fetch');
    a.mov(place, mem(c.scratch, scratch.stream, { index: tile, scale: 8 }));
    emitPrefetch(c, mem(place), tileBytes(shape));
    a.add(tile, 1);
    a.cmp(tile, TILES_AHEAD);
    a.jl(tiles);
  });
}

/** The part that is finished last merges them all, in order; others go on to `done`. */
function emitMeeting(c: Context, done: Label): void {
  const { a, sizes, locals } = c;
  withGprs(c, 2, (counter, count) => {
    a.mov(counter, locals.counter);
    a.mov(count, 1);
    a.lockXadd(mem(counter), count);
    a.add(count, 1);
    a.cmp(count, locals.numParts);
    a.jne(done);
    // For the next op.
    a.mov(sized(mem(counter), 8), 0);
    a.mov(count, locals.parts);
    a.mov(locals.partial, count);
  });
  const parts = a.here('part');
  emitMerge(c, 0, locals.numRows);
  a.add(locals.partial, partialBytes(sizes.shape));
  a.sub(locals.numParts, 1);
  a.jne(parts);
}

/** Accumulators divided by their sums of weights, to dst. */
function emitOutputs(c: Context): void {
  const { a, sizes, locals } = c;
  const { scratch, shape, group } = sizes;
  const lanes = new Lanes(a, c.isa);
  const [inverse, total, values] = [lanes.take(), lanes.take(), lanes.take()];
  withGprs(c, 6, (token, out, source, head, row, value) => {
    a.mov(token, 0);
    a.mov(row, 0);
    a.lea(source, scratchAt(c, scratch.sums));
    const tokens = a.here('output_token');
    a.mov(out, locals.firstToken);
    a.add(out, token);
    a.imul(out, locals.outRowBytes);
    a.imul3(value, locals.kvHead, group * shape.headDim * 4);
    a.add(out, value);
    a.add(out, locals.outData);
    a.mov(head, group);
    const heads = a.here('output_head');
    lanes.broadcast(total, mem(c.scratch, scratch.totals, { index: row, scale: 4 }));
    lanes.load(inverse, lanes.constant(1));
    lanes.op('vdivps', inverse, inverse, total);
    for (let d = 0; d < shape.headDim; d += NUM_LANES) {
      lanes.op('vmulps', values, inverse, mem(source, 4 * d));
      lanes.store(mem(out, 4 * d), values);
    }
    a.add(source, shape.headDim * 4);
    a.add(out, shape.headDim * 4);
    a.add(row, 1);
    a.sub(head, 1);
    a.jne(heads);
    a.add(token, 1);
    a.cmp(token, locals.numTokens);
    a.jl(tokens);
  });
}
