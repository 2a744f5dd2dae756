// Owns the ops of a step program, one method each: which kernel, which buffers, which fields.
// Legend: T tokens, O outputs, D hidden size, H heads, G key/value heads, K head dim, F feed-forward size, V vocabulary.
import { invariant } from '../../common/errors.ts';
import type { Address } from '../ffi/koffi.ts';
import type { Isa } from '../jit/cpu-features.ts';
import { KV_OP_BYTES, type KvShape, writeAttentionOp, writeKvWriteOp } from '../jit/kernels/abi.ts';
import { emitAttentionOp } from '../jit/kernels/attention/attention.ts';
import { emitKvWriteOp } from '../jit/kernels/kv-write.ts';
import { OpBlock } from '../jit/kernels/op.ts';
import { fineRecord, plainRecord, type RecordLayout, recordRowBytes } from '../jit/kernels/product/abi.ts';
import { type PackedLayout, packedLayout } from '../jit/kernels/product/layout.ts';
import { PRODUCT_OP_BYTES, type ProductKind, writeProductOp } from '../jit/kernels/product/product-op.ts';
import { emitProduct } from '../jit/kernels/product/product.ts';
import { emitEmbed, embedOp } from '../jit/kernels/rows/embed.ts';
import { emitGate, gateOp } from '../jit/kernels/rows/gate.ts';
import { emitGather, gatherOp } from '../jit/kernels/rows/gather.ts';
import { emitNorm, normOp } from '../jit/kernels/rows/norm.ts';
import { emitQuantise, quantiseOp } from '../jit/kernels/rows/quantise.ts';
import { emitRope, ropeOp } from '../jit/kernels/rows/rope.ts';
import { type OpLayout, writeRowOp } from '../jit/kernels/rows/row-op.ts';
import { emitSampler, SAMPLER_OP_BYTES, writeSamplerOp } from '../jit/kernels/sampler.ts';
import type { MachineCode } from '../jit/asm/program.ts';
import type { ModelConfig } from '../models/config.ts';
import type { ModelWeight } from '../models/model.ts';
import type { Linear } from '../models/weights.ts';
import type { Activations, Rows } from './activations.ts';
import type { Buffers } from './buffers.ts';
import type { KvSteps } from './kv-steps.ts';
import type { OpSpec } from './program-builder.ts';
import type { RopeTables } from './rope-tables.ts';
import type { SampleSteps } from './sample-steps.ts';
import type { Precision, RowSet, StepInputs } from './step-inputs.ts';

export interface EmittersOptions {
  readonly config: ModelConfig;
  readonly isa: Isa;
  readonly maxTokens: number;
  readonly activations: Activations;
  /** Buffers of inputs, by kind and width; they serve layer after layer. */
  readonly productInputs: Map<string, Rows>;
  readonly buffers: Buffers;
  /** Results of the step before. */
  readonly previousResults: Rows;
  readonly inputs: StepInputs;
  readonly kv: KvSteps;
  readonly samples: SampleSteps;
  readonly ropes: RopeTables;
}

/** Which rows an op works on, and where it stands in a profile. */
export interface On {
  readonly layer: number;
  readonly rows: RowSet;
}

/** What products read: rows of floats, or records. */
export type InputKind = 'floats' | 'records';

/** Rows of one precision, in a buffer that has room for all rows. */
export interface Input {
  readonly precision: Precision;
  /** null: floats. */
  readonly record: RecordLayout | null;
  readonly rows: Rows;
}

/** Ops that make the input of a product: of floats one, of records one per precision. */
export interface MadeInput {
  readonly ops: readonly OpSpec[];
  readonly inputs: readonly Input[];
}

const precisionsOf: Readonly<Record<InputKind, readonly Omit<Input, 'rows'>[]>> = {
  floats: [{ precision: 'any', record: null }],
  records: [
    { precision: 'precise', record: fineRecord },
    { precision: 'plain', record: plainRecord },
  ],
};

export class Emitters {
  readonly #o: EmittersOptions;

  constructor(options: EmittersOptions) {
    this.#o = options;
  }

  /** How products with this weight take their input. */
  inputKind(weight: ModelWeight): InputKind {
    return layoutOf(weight).kind === 'float' ? 'floats' : 'records';
  }

  /** Rows of the tokens' embeddings. */
  embed(table: ModelWeight, scale: number, out: Rows): OpSpec {
    const { isa, inputs, previousResults } = this.#o;
    const layout = layoutOf(table);
    const [, D] = table.shape as [number, number];
    return rowOp(
      'embed',
      kernel(emitEmbed, { isa, numFeatures: D, table: layout, scale }),
      embedOp,
      inputs.rows('tokens'),
      {
        tokens: inputs.tokenIds,
        sampled: previousResults.address,
        sampledBytes: previousResults.rowBytes,
        table: table.address,
        out: out.address,
        outRowBytes: out.rowBytes,
      },
    );
  }

  /** norm(x), as products with `consumer` take it. */
  norm(x: Rows, weight: ModelWeight, consumer: ModelWeight, on: On): MadeInput {
    return this.#normTo(x, weight, this.#inputsOf(consumer), on, null);
  }

  /** The same, and the normed floats to `hidden`. */
  finalNorm(x: Rows, weight: ModelWeight, hidden: Rows, consumer: ModelWeight): MadeInput {
    const { config } = this.#o;
    const on = { layer: config.layers.length, rows: 'outputs' } as const;
    const inputs = this.#inputsOf(consumer).map((input) => (input.record ? input : { ...input, rows: hidden }));
    return this.#normTo(x, weight, inputs, on, hidden);
  }

  #normTo(x: Rows, weight: ModelWeight, inputs: readonly Input[], on: On, hidden: Rows | null): MadeInput {
    return { ops: inputs.map((input) => this.#normOf(x, weight, input, on, hidden)), inputs };
  }

  #normOf(x: Rows, weight: ModelWeight, { record, precision, rows }: Input, on: On, hidden: Rows | null): OpSpec {
    const { config, isa } = this.#o;
    const floats = record ? hidden : rows;
    const options = {
      isa,
      kind: 'rms',
      numFeatures: config.hiddenSize,
      eps: config.normEps,
      record,
      floats: floats ? 'written' : 'none',
    } as const;
    return rowOp('norm', kernel(emitNorm, options), normOp, this.#rows(on, precision), {
      x: x.address,
      xRowBytes: x.rowBytes,
      weight: weight.address,
      bias: 0,
      records: record ? rows.address : 0,
      out: floats?.address ?? 0,
      outRowBytes: floats?.rowBytes ?? 0,
    });
  }

  /** x += norm(branch) */
  postNorm(branch: Rows, weight: ModelWeight, x: Rows, on: On): OpSpec {
    const { config, isa } = this.#o;
    const { hiddenSize: numFeatures, normEps: eps } = config;
    const options = { isa, kind: 'rms', numFeatures, eps, record: null, floats: 'added' } as const;
    return rowOp('norm', kernel(emitNorm, options), normOp, this.#rows(on), {
      x: branch.address,
      xRowBytes: branch.rowBytes,
      weight: weight.address,
      bias: 0,
      records: 0,
      out: x.address,
      outRowBytes: x.rowBytes,
    });
  }

  /** x as products with `consumer` take it. */
  quantise(x: Rows, consumer: ModelWeight, on: On): MadeInput {
    const { isa } = this.#o;
    const [, numFeatures] = consumer.shape as [number, number];
    const inputs = this.#inputsOf(consumer).map((input) => (input.record ? input : { ...input, rows: x }));
    const ops = inputs.flatMap(({ record, precision, rows }) => {
      if (!record) return [];
      const code = kernel(emitQuantise, { isa, numFeatures, record });
      return rowOp('quantise', code, quantiseOp, this.#rows(on, precision), {
        x: x.address,
        xRowBytes: x.rowBytes,
        records: rows.address,
      });
    });
    return { ops, inputs };
  }

  /** act(gate) * up, as products with `consumer` take it. */
  gate(gateUp: Rows, consumer: ModelWeight, on: On): MadeInput {
    const { config, isa } = this.#o;
    const { ffnSize: F } = config;
    const inputs = this.#inputsOf(consumer);
    const activation = config.activation === 'silu' ? 'silu' : 'gelu_tanh';
    const ops = inputs.map(({ record, precision, rows }) => {
      const code = kernel(emitGate, { isa, activation, numFeatures: F, record });
      return rowOp('gate', code, gateOp, this.#rows(on, precision), {
        gate: gateUp.address,
        gateRowBytes: gateUp.rowBytes,
        up: gateUp.address + 4 * F,
        upRowBytes: gateUp.rowBytes,
        out: rows.address,
        outRowBytes: rows.rowBytes,
      });
    });
    return { ops, inputs };
  }

  /** out = or += input · weightᵀ + bias, of each precision. */
  product(
    linear: Linear<ModelWeight>,
    inputs: readonly Input[],
    out: Rows,
    mode: 'store' | 'add',
    label: string,
    on: On,
  ): OpSpec[] {
    return inputs.map((input) => this.#productOf(linear, input, out, mode, label, on));
  }

  #productOf(
    { weight, bias }: Linear<ModelWeight>,
    { record, precision, rows: x }: Input,
    out: Rows,
    mode: 'store' | 'add',
    label: string,
    on: On,
  ): OpSpec {
    const { config, isa } = this.#o;
    const layout = layoutOf(weight);
    const [numRows, K] = weight.shape as [number, number];
    const N = weight.isGated ? numRows / 2 : numRows;
    const gate = !weight.isGated ? null : config.activation === 'silu' ? 'silu' : 'gelu';
    const kind: ProductKind = { layout, isa, isFine: record?.isFine ?? false, gate };
    return {
      ...kernel(emitProduct, kind),
      label,
      rows: this.#rows(on, precision),
      blockBytes: PRODUCT_OP_BYTES,
      write: (buffer, byteOffset) =>
        writeProductOp(new OpBlock(buffer, byteOffset, PRODUCT_OP_BYTES), kind, {
          N,
          K,
          weights: weight.address,
          x: x.address,
          xRowBytes: x.rowBytes,
          out: out.address,
          outRowBytes: out.rowBytes,
          bias: bias?.address ?? null,
          mode,
        }),
    };
  }

  /** Queries and keys rotated in place, after the norms of their heads where the model has them. */
  rope(layer: number, qNorm: ModelWeight | null, kNorm: ModelWeight | null): OpSpec {
    const { config, isa, inputs, buffers, ropes } = this.#o;
    const { numHeads, numKvHeads, headDim, ropePairs: pairs, normEps } = config;
    const hasNorms = qNorm !== null;
    const headNormEps = hasNorms ? normEps : null;
    const options = { isa, numHeads, numKvHeads, headDim, rotaryDim: headDim, pairs, headNormEps };
    const rope = config.layers[layer]?.rope;
    invariant(rope, `no layer ${layer}`);
    const { qkv } = buffers;
    return rowOp('rope', kernel(emitRope, options), ropeOp, inputs.rows('tokens'), {
      q: qkv.address,
      qRowBytes: qkv.rowBytes,
      k: qkv.address + 4 * numHeads * headDim,
      kRowBytes: qkv.rowBytes,
      positions: inputs.positions,
      table: ropes.addressOf(rope),
      qNorm: qNorm?.address ?? 0,
      kNorm: kNorm?.address ?? 0,
    });
  }

  kvWrite(layer: number): OpSpec {
    const { config, isa, inputs, kv } = this.#o;
    const { shape, pages } = kv.layer(layer);
    const { numHeads, numKvHeads } = config;
    return {
      ...kernel((at: KvShape) => emitKvWriteOp(at, isa), shape, 'kv-write'),
      label: 'kv-write',
      rows: inputs.rows('tokens'),
      blockBytes: KV_OP_BYTES,
      write: (buffer, byteOffset) =>
        writeKvWriteOp(buffer, byteOffset, {
          ...pages,
          rows: inputs.rows('tokens'),
          keys: this.#heads(numHeads),
          values: this.#heads(numHeads + numKvHeads),
        }),
    };
  }

  attention(layer: number): OpSpec {
    const { config, isa, inputs, kv, buffers } = this.#o;
    const { shape, pages, window } = kv.layer(layer);
    return {
      ...kernel((at: KvShape) => emitAttentionOp(at, isa), shape, 'attention'),
      label: 'attention',
      rows: inputs.rows('tokens'),
      blockBytes: KV_OP_BYTES,
      write: (buffer, byteOffset) =>
        writeAttentionOp(buffer, byteOffset, {
          ...pages,
          rows: inputs.rows('tokens'),
          queries: this.#heads(0),
          out: buffers.attended,
          window,
          scale: config.attentionScale,
          softCap: null,
          sinks: null,
          scratch: kv.scratch,
          scratchBytes: kv.scratchBytes,
        }),
    };
  }

  /** Residual and attended rows of the tokens that have outputs. */
  gather(): OpSpec {
    const { config, isa, inputs, buffers } = this.#o;
    const widths = [config.hiddenSize, config.numHeads * config.headDim] as const;
    return rowOp('gather', kernel(emitGather, { isa, widths }), gatherOp, inputs.rows('outputs'), {
      indices: inputs.outputTokens,
      x: buffers.residual.address,
      xRowBytes: buffers.residual.rowBytes,
      out: buffers.outputResidual.address,
      outRowBytes: buffers.outputResidual.rowBytes,
      secondX: buffers.attended.address,
      secondXRowBytes: buffers.attended.rowBytes,
      secondOut: buffers.outputAttended.address,
      secondOutRowBytes: buffers.outputAttended.rowBytes,
    });
  }

  sampler(): OpSpec {
    const { isa, inputs, samples, buffers } = this.#o;
    return {
      ...kernel(emitSampler, isa),
      label: 'sampler',
      rows: inputs.rows('outputs'),
      blockBytes: SAMPLER_OP_BYTES,
      write: (buffer, byteOffset) =>
        writeSamplerOp(new OpBlock(buffer, byteOffset, SAMPLER_OP_BYTES), {
          cell: samples.cell,
          logits: buffers.logits.address,
          logitsRowBytes: buffers.logits.rowBytes,
          results: buffers.results.address,
          resultsRowBytes: buffers.results.rowBytes,
        }),
    };
  }

  #rows({ rows }: On, precision: Precision = 'any'): Address {
    return this.#o.inputs.rows(rows, precision);
  }

  /** Heads of a step's queries, keys and values, from this one on. */
  #heads(first: number): { readonly address: Address; readonly rowBytes: number; readonly headBytes: number } {
    const { config, buffers } = this.#o;
    const headBytes = 4 * config.headDim;
    return { address: buffers.qkv.address + first * headBytes, rowBytes: buffers.qkv.rowBytes, headBytes };
  }

  /** The buffers that products with this weight read. */
  #inputsOf(consumer: ModelWeight): Input[] {
    const { activations, maxTokens, productInputs } = this.#o;
    const [, width] = consumer.shape as [number, number];
    return precisionsOf[this.inputKind(consumer)].map(({ precision, record }) => {
      const key = `${record ? precision : 'floats'} ${width}`;
      let rows = productInputs.get(key);
      if (!rows) {
        rows = activations.rows(maxTokens, record ? recordRowBytes(record, width) : 4 * width);
        productInputs.set(key, rows);
      }
      return { precision, record, rows };
    });
  }
}

function layoutOf({ type }: ModelWeight): PackedLayout {
  const layout = packedLayout(type);
  invariant(layout, `no products take ${type}`);
  return layout;
}

/** A kernel to be emitted once for equal options. */
function kernel<Options>(
  emit: (options: Options) => MachineCode,
  options: Options,
  name = emit.name,
): Pick<OpSpec, 'kernel' | 'emit'> {
  return { kernel: `${name} ${JSON.stringify(options)}`, emit: () => emit(options) };
}

function rowOp<Name extends string>(
  label: string,
  code: Pick<OpSpec, 'kernel' | 'emit'>,
  layout: OpLayout<Name>,
  rows: Address,
  values: Readonly<Record<NoInfer<Name>, Address>>,
): OpSpec {
  const { bytes } = layout;
  return {
    ...code,
    label,
    rows,
    blockBytes: bytes,
    write: (buffer, byteOffset) => writeRowOp(layout, new OpBlock(buffer, byteOffset, bytes), { ...values, rows }),
  };
}
