// Owns the operations that models are made of, with their shapes checked before ggml (which aborts) sees them.
// Legend: T tokens, D hidden size, H heads, K head dim, N output features, F feed-forward size, V rows of a table.
import { invariant } from '../../common/errors.ts';
import type { Address } from '../ffi/koffi.ts';
import { type TensorType, tensorTypes } from './dtype.ts';
import type { Graph } from './graph.ts';
import { denseStrides, ggmlDims, match, type Tensor } from './tensor.ts';

/** table [V,D], rows I32 [T] → F32 [T,D]. Ids past V abort: validate them first. */
export function getRows(g: Graph, table: Tensor, rows: Tensor): Tensor {
  const { D, T } = match({ table: [table, 'V', 'D'], rows: [rows, 'T'] }) as { D: number; T: number };
  invariant(rows.type === 'I32', 'row numbers must be I32');
  const type: TensorType = table.type === 'I32' ? 'I32' : 'F32';
  return g.add(g.ggml.getRows(g.ctx, table.address, rows.address), type, [T, D]);
}

/** x [T,D] · w [N,D]ᵀ → F32 [T,N], by ggml. */
export function multiply(g: Graph, x: Tensor, w: Tensor): Tensor {
  const { T, N } = match({ x: [x, 'T', 'D'], w: [w, 'N', 'D'] }) as { T: number; N: number };
  return g.add(g.ggml.mulMat(g.ctx, w.address, x.address), 'F32', [T, N]);
}

/** a [..,D] + b of a's shape, or [D] for every row. */
export function add(g: Graph, a: Tensor, b: Tensor): Tensor {
  checkBroadcast(a, b);
  return g.add(g.ggml.add(g.ctx, a.address, b.address), 'F32', a.shape);
}

/** a [..,D] * b of a's shape, or [D] for every row. */
function mul(g: Graph, a: Tensor, b: Tensor): Tensor {
  checkBroadcast(a, b);
  return g.add(g.ggml.mul(g.ctx, a.address, b.address), 'F32', a.shape);
}

function checkBroadcast(a: Tensor, b: Tensor): void {
  const isSame = b.shape.length === a.shape.length && b.shape.every((dim, i) => dim === a.shape[i]);
  const isRow = b.shape.length === 1 && b.shape[0] === a.shape.at(-1);
  invariant(isSame || isRow, `cannot broadcast [${b.shape.join()}] over [${a.shape.join()}]`);
}

export function scale(g: Graph, x: Tensor, factor: number): Tensor {
  return g.add(g.ggml.scale(g.ctx, dense(g, x).address, factor), 'F32', x.shape);
}

/** x [..,D] / rms(x) * w [D], per row. Two nodes that ggml runs as one. */
export function rmsNorm(g: Graph, x: Tensor, w: Tensor, eps: number): Tensor {
  return mul(g, g.add(g.ggml.rmsNorm(g.ctx, x.address, eps), 'F32', x.shape), w);
}

/** x [T,N], columns [from, from + count) → a view [T,count]. */
export function columns(g: Graph, x: Tensor, from: number, count: number): Tensor {
  const [T, N] = x.shape as [number, number];
  const [, elementStride] = x.strides as [number, number];
  invariant(x.shape.length === 2 && from + count <= N, `no columns ${from}..${from + count} in [${x.shape.join()}]`);
  return g.view(x, [T, count], x.strides, from * elementStride);
}

/** x [T,H*K] → a view [T,H,K]. */
export function splitHeads(g: Graph, x: Tensor, numHeads: number): Tensor {
  const [T, N] = x.shape as [number, number];
  const [rowStride, elementStride] = x.strides as [number, number];
  const K = N / numHeads;
  invariant(Number.isInteger(K), `${N} features are not ${numHeads} heads`);
  return g.view(x, [T, numHeads, K], [rowStride, K * elementStride, elementStride]);
}

/** `gelu_tanh` goes through ggml's table of 16-bit floats (off by up to 1e-3); `gelu_tanh_f32` is computed. */
export type Activation = 'silu' | 'gelu_tanh' | 'gelu_tanh_f32';

/** gate and up side by side [T,2F], or as two [T,F] → act(gate) * up [T,F]. */
export function gated(g: Graph, activation: Activation, gate: Tensor, up: Tensor | null): Tensor {
  const { ggml, ctx } = g;
  const [T, width] = gate.shape as [number, number];
  if (up) match({ gate: [gate, 'T', 'F'], up: [up, 'T', 'F'] });
  if (activation === 'gelu_tanh_f32') {
    const half = width / 2;
    return up
      ? mul(g, geluTanh(g, gate), up)
      : gated(g, activation, columns(g, gate, 0, half), columns(g, gate, half, half));
  }
  const isSilu = activation === 'silu';
  if (up) {
    const [a, b] = [gate.address, up.address];
    return g.add(isSilu ? ggml.swigluSplit(ctx, a, b) : ggml.gegluSplit(ctx, a, b), 'F32', [T, width]);
  }
  return g.add(isSilu ? ggml.swiglu(ctx, gate.address) : ggml.geglu(ctx, gate.address), 'F32', [T, width / 2]);
}

/** x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) */
function geluTanh(g: Graph, x: Tensor): Tensor {
  const { ggml, ctx } = g;
  const cubed = mul(g, mul(g, x, x), x);
  const inner = scale(g, add(g, scale(g, cubed, 0.044715), x), Math.sqrt(2 / Math.PI));
  const tanh = g.add(ggml.tanh(ctx, inner.address), 'F32', x.shape);
  return mul(g, g.add(ggml.scaleBias(ctx, tanh.address, 0.5, 0.5), 'F32', x.shape), x);
}

export interface Rope {
  /** `adjacent`: pairs (2i, 2i+1); `halves`: pairs (i, i + K/2). */
  readonly pairs: 'adjacent' | 'halves';
  readonly base: number;
  /** Factor on the rotated vectors (yarn); 1: none. */
  readonly attnFactor: number;
  /** F32 [K/2]: what each frequency is divided by; null: nothing. */
  readonly frequencyFactors: Tensor | null;
}

/** x [T,H,K], positions I32 [T] → rotated [T,H,K]. */
export function rope(g: Graph, x: Tensor, positions: Tensor, params: Rope): Tensor {
  const { K } = match({ x: [x, 'T', 'H', 'K'], positions: [positions, 'T'] }) as { K: number };
  const { pairs, base, attnFactor, frequencyFactors } = params;
  if (frequencyFactors) match({ frequencyFactors: [frequencyFactors, K / 2] });
  const mode = pairs === 'adjacent' ? 0 : 2;
  const factors = frequencyFactors?.address ?? 0;
  const { ggml, ctx } = g;
  // No interpolation in ggml: every scaling scheme is already in the factors.
  const rotated = ggml.ropeExt(ctx, x.address, positions.address, factors, K, mode, 1, base, 1, 0, attnFactor, 1, 1);
  return g.add(rotated, 'F32', x.shape);
}

/** A node that runs machine code: `void fn(ggml_tensor *dst, int ith, int nth, void *userData)`. */
export function custom(
  g: Graph,
  type: TensorType,
  shape: readonly number[],
  sources: readonly Tensor[],
  fn: Address,
  userData: Address,
): Tensor {
  const addresses = BigUint64Array.from(sources, (source) => BigInt(source.address));
  const { ggml, ctx } = g;
  // -1: on all threads.
  const address = ggml.custom(
    ctx,
    tensorTypes[type].ggmlType,
    ...ggmlDims(shape),
    addresses,
    sources.length,
    fn,
    -1,
    userData,
  );
  return g.add(address, type, shape);
}

/** The same elements without gaps: a copy where there are any. */
export function dense(g: Graph, x: Tensor): Tensor {
  const wanted = denseStrides(x.type, x.shape);
  if (x.strides.every((stride, i) => stride === wanted[i])) return x;
  return g.add(g.ggml.cont(g.ctx, x.address), x.type, x.shape);
}

/** Writes values [n,K] into rows of target [R,K] (F16 or F32), in place. rows: I32 [n]; equal rows must get equal values. */
export function setRows(g: Graph, target: Tensor, values: Tensor, rows: Tensor): Tensor {
  match({ target: [target, 'R', 'K'], values: [values, 'n', 'K'], rows: [rows, 'n'] });
  return g.addInPlace(g.ggml.setRows(g.ctx, target.address, values.address, rows.address), target);
}

/** a [n,D], b [m,D] → [n+m,D] */
export function concatRows(g: Graph, a: Tensor, b: Tensor): Tensor {
  const { n, m, D } = match({ a: [a, 'n', 'D'], b: [b, 'm', 'D'] }) as { n: number; m: number; D: number };
  return g.add(g.ggml.concat(g.ctx, a.address, b.address, 1), 'F32', [n + m, D]);
}

/**
 * q [S,H,N,K], k and v [S,G,L,K] (F32 or F16), mask F16 [S,1,N,L] added to the scores → [S,N,H,K].
 * Sums run over positions in order, skipping those masked with -infinity, where N is 2 to 63; one row of a lone
 * sequence, and 64 rows or more, sum in another order.
 */
export function flashAttention(g: Graph, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, factor: number): Tensor {
  const { S, H, N, K } = match({
    q: [q, 'S', 'H', 'N', 'K'],
    k: [k, 'S', 'G', 'L', 'K'],
    v: [v, 'S', 'G', 'L', 'K'],
    mask: [mask, 'S', 1, 'N', 'L'],
  }) as { S: number; H: number; N: number; K: number };
  const node = g.ggml.flashAttention(g.ctx, q.address, k.address, v.address, mask.address, factor, 0, 0);
  return g.add(node, 'F32', [S, N, H, K]);
}
