// Owns a unit of work of the attention kernel: which tokens and kv head it is, its queries, and its outputs.
import { mem, sized } from '../../asm/operands.ts';
import { r32, rax, rdx, xmm } from '../../asm/registers.ts';
import type { Label } from '../../asm/operands.ts';
import { attentionField, countersBytes, partialBytes } from '../abi.ts';
import { Lanes, NUM_LANES } from '../lanes.ts';
import { stepLayout } from '../step-block.ts';
import { type Context, LOWEST_MAX, rowValue, scratchAt, withGprs } from './context.ts';
import { emitMerge } from './merge.ts';

/** The tile and kv head of the unit whose number is in rax, to locals. */
export function emitUnit(c: Context): void {
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

/**
 * The unit's queries times the scale, row by row (token, then head), to scratch. Rows start empty, or with their head's
 * sink: a score of weight 1 that has no value.
 */
export function emitQueries(c: Context): void {
  const { a, sizes, locals } = c;
  const { scratch, shape, group } = sizes;
  const lanes = new Lanes(a, c.isa);
  const [scale, values, zero] = [lanes.takeSplat(), lanes.take(), lanes.takeSplat()];
  const sink = xmm(15);
  lanes.zero(zero);
  withGprs(c, 7, (token, source, out, head, row, value, sinks) => {
    lanes.broadcast(scale, mem(c.op, attentionField.queryScale));
    a.lea(out, scratchAt(c, scratch.queries));
    a.mov(token, 0);
    a.mov(row, 0);
    const tokens = a.here('query_token');
    a.mov(source, locals.firstToken);
    a.add(source, token);
    a.imul(source, locals.queryTokenStride);
    a.imul3(head, locals.kvHead, group);
    a.mov(sinks, mem(c.op, attentionField.sinks));
    a.lea(value, mem(sinks, 0, { index: head, scale: 4 }));
    // Without sinks it stays 0.
    a.test(sinks, sinks);
    a.cmovne(sinks, value);
    a.imul(head, locals.queryHeadStride);
    a.add(source, head);
    a.add(source, locals.queryData);
    a.mov(head, group);
    const heads = a.here('query_head');
    for (let d = 0; d < shape.headDim; d += NUM_LANES) {
      lanes.op('vmulps', values, scale, mem(source, 4 * d));
      lanes.store(mem(out, 4 * d), values);
      lanes.store(mem(out, 4 * d + scratch.sums - scratch.queries), zero);
    }
    const [empty, ready] = [a.label('no_sink'), a.label('row_ready')];
    a.test(sinks, sinks);
    a.je(empty);
    a.vmovss(sink, a.f32(Math.LOG2E));
    a.vmulss(sink, sink, mem(sinks));
    a.vmovss(rowValue(c, scratch.maxima, row), sink);
    a.mov(sized(rowValue(c, scratch.totals, row), 4), floatBits(1));
    a.add(sinks, 4);
    a.jmp(ready);
    a.bind(empty);
    a.mov(sized(rowValue(c, scratch.maxima, row), 4), floatBits(LOWEST_MAX));
    a.mov(sized(rowValue(c, scratch.totals, row), 4), 0);
    a.bind(ready);
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

const floatBits = (value: number): number => new Int32Array(Float32Array.of(value).buffer)[0]!;

/** The part that is finished last merges them all, in order; others go on to `done`. */
export function emitMeeting(c: Context, done: Label): void {
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
export function emitOutputs(c: Context): void {
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
