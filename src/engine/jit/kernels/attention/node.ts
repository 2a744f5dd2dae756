// Owns the attention kernel as a ggml custom operation.
import { emitFunction } from '../../asm/function.ts';
import { mem, sized } from '../../asm/operands.ts';
import type { MachineCode } from '../../asm/program.ts';
import { type Gpr, rax, rbx, xmm } from '../../asm/registers.ts';
import type { Isa } from '../../cpu-features.ts';
import { checkShape, type KvShape, stepLayout, tensorField } from '../abi.ts';
import { opField } from '../op.ts';
import { emitPiece, emitSetup } from './attention.ts';
import { type Context, sizesOf, takeLocals, withGprs } from './context.ts';

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
