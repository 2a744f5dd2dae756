// Owns attention without emitted code: KV blocks gathered by ggml_get_rows, then ggml's flash attention.
// Legend: T tokens, S rows of a call, N queries of each, B KV blocks, H heads, G kv heads, K head dim, L = B * block tokens.
import { invariant } from '../../common/errors.ts';
import type { Address } from '../ffi/koffi.ts';
import { type CacheGroup, firstReadPosition } from '../kv/cache-group.ts';
import { layerOffset, type PageLayout } from '../kv/layout.ts';
import type { KvSpace } from '../kv/spaces/kv-space.ts';
import type { GroupMemory } from '../kv/spaces/segments.ts';
import type { Attention } from '../models/blocks.ts';
import type { ModelConfig } from '../models/config.ts';
import type { StepPlan } from '../scheduler/plan.ts';
import type { TensorType } from '../tensor/dtype.ts';
import type { Graph } from '../tensor/graph.ts';
import type { InputLayout, InputMemory, InputSection, StagedInputs } from '../tensor/inputs.ts';
import { concatRows, dense, flashAttention, getRows, setRows } from '../tensor/ops.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { AttentionShape } from './attention-shape.ts';
import { blockRange, type Call, planCalls } from './ggml-attention-calls.ts';

const negativeInfinityF16 = 0xfc00;
/** Row numbers are bounded by the pool, not by the tensors that show it. */
const unbounded = 2 ** 31 - 1;

export interface GgmlAttentionOptions {
  readonly config: ModelConfig;
  readonly groups: readonly CacheGroup[];
  readonly space: KvSpace;
  readonly deterministic: boolean;
}

export class GgmlAttention {
  readonly #options: GgmlAttentionOptions;
  readonly #pools: readonly PoolView[];

  constructor(options: GgmlAttentionOptions) {
    this.#options = options;
    this.#pools = options.groups.map(
      (group, i) => new PoolView(group, options.space.groups[i], options.space.layouts[i]),
    );
  }

  /** `numTokens`: the padded number of tokens; what lies behind the plan's own is to have no effect. */
  shapeOf(plan: StepPlan, numTokens: number): AttentionShape {
    const calls = planCalls(plan, this.#options.groups, this.#pools, this.#options.deterministic);
    return new GgmlAttentionShape(this.#options, this.#pools, plan, calls, numTokens);
  }
}

/** A group's pool as tables of overlapping rows, so that row numbers can be any multiple of `unit` bytes. */
class PoolView {
  readonly unit: number;
  readonly blockTokens: number;
  readonly layout: PageLayout;
  readonly pageUnits: number;
  readonly headUnits: number;
  readonly tokenUnits: number;
  readonly #type: TensorType;
  readonly #group: CacheGroup;
  readonly #poolAddress: Address;

  constructor(group: CacheGroup, memory: GroupMemory | undefined, layout: PageLayout | undefined) {
    invariant(memory && layout, `the KV space lacks group ${group.name}`);
    invariant(group.keyDim === group.valueDim, 'keys and values of different sizes');
    this.layout = layout;
    this.blockTokens = layout.blockTokens;
    this.#group = group;
    invariant(group.element === 'f16' || group.element === 'f32', `ggml attends to no cache in ${group.element}`);
    this.#type = group.element === 'f16' ? 'F16' : 'F32';
    this.#poolAddress = memory.poolAddress;
    this.unit = greatestCommonDivisor(layout.pageBytes, layout.keyTokenBytes);
    this.pageUnits = layout.pageBytes / this.unit;
    this.headUnits = layout.keyHeadBytes / this.unit;
    this.tokenUnits = layout.keyTokenBytes / this.unit;
  }

  /** Rows of `elements` at every unit from a layer's first key or value on. */
  table(g: Graph, layer: number, part: 'key' | 'value', elements: number): Tensor {
    const offset = layerOffset(this.layout, this.#group.layers.indexOf(layer));
    const data = this.#poolAddress + offset + (part === 'value' ? this.layout.valueOffset : 0);
    return g.leaf(this.#type, [unbounded, elements], data, [this.unit, this.layout.elementBytes]);
  }
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/** Sections of one call's inputs. */
interface CallInputs {
  /** I32 [S*N] */
  readonly queryTokens: InputSection;
  /** [G] I32 [S*G*B] */
  readonly blocks: readonly InputSection[];
  /** [G] F16 [S,N,L] */
  readonly masks: readonly InputSection[];
}

class GgmlAttentionShape implements AttentionShape {
  readonly key: string;
  readonly #options: GgmlAttentionOptions;
  readonly #pools: readonly PoolView[];
  readonly #plan: StepPlan;
  readonly #calls: readonly Call[];
  readonly #numTokens: number;
  /** [G] I32 [T*G]: where each token's heads go. */
  #writeRows: readonly InputSection[] = [];
  #callInputs: readonly CallInputs[] = [];
  /** I32 [T]: which of the calls' results belongs to each token. */
  #resultRows: InputSection | null = null;

  constructor(
    options: GgmlAttentionOptions,
    pools: readonly PoolView[],
    plan: StepPlan,
    calls: readonly Call[],
    numTokens: number,
  ) {
    this.#options = options;
    this.#pools = pools;
    this.#plan = plan;
    this.#calls = calls;
    this.#numTokens = numTokens;
    this.key = calls.map((call) => `${call.rows.length}x${call.numQueries}:${call.numBlocks.join('/')}`).join(' ');
  }

  layout(layout: InputLayout): void {
    const { numKvHeads } = this.#options.config;
    this.#writeRows = this.#pools.map(() => layout.section(this.#numTokens * numKvHeads, 4));
    this.#callInputs = this.#calls.map(({ rows, numQueries, numBlocks }) => ({
      queryTokens: layout.section(rows.length * numQueries, 4),
      blocks: numBlocks.map((count) => layout.section(rows.length * numKvHeads * count, 4)),
      masks: this.#pools.map((pool, g) =>
        layout.section(rows.length * numQueries * (numBlocks[g] ?? 0) * pool.blockTokens, 2),
      ),
    }));
    this.#resultRows = layout.section(this.#numTokens, 4);
  }

  fill(staged: StagedInputs): void {
    invariant(this.#resultRows, 'layout comes first');
    const results = staged.int32(this.#resultRows);
    let result = 0;
    this.#calls.forEach(({ rows, numQueries }, c) => {
      const inputs = this.#callInputs[c];
      invariant(inputs, 'layout comes first');
      const queries = staged.int32(inputs.queryTokens);
      rows.forEach((row, s) => {
        for (let n = 0; n < numQueries; n++) {
          // Padding repeats the row's last query.
          queries[s * numQueries + n] = row.firstToken + Math.min(n, row.numTokens - 1);
          if (n < row.numTokens) results[row.firstToken + n] = result + n;
        }
        result += numQueries;
      });
    });
    // Padding tokens repeat the last one in every layer: they must write the very values that it writes.
    const last = this.#plan.numTokens - 1;
    results.fill(results[last]!, last);
    for (const g of this.#pools.keys()) this.#fillGroup(staged, g);
  }

  #fillGroup(staged: StagedInputs, g: number): void {
    const pool = this.#pools[g];
    const group = this.#options.groups[g];
    const tables = this.#plan.groups[g];
    const writeSection = this.#writeRows[g];
    invariant(pool && group && tables && writeSection, `the plan lacks KV group ${g}`);
    const { numTokens, numRows, rowStart, positions } = this.#plan;
    const { pageUnits, headUnits, tokenUnits, blockTokens } = pool;
    const heads = group.numKvHeads;
    const writes = staged.int32(writeSection);
    for (let row = 0; row < numRows; row++) {
      for (let token = rowStart[row]!; token < rowStart[row + 1]!; token++) {
        const position = positions[token]!;
        const page = tables.pages[tables.pageStart[row]! + Math.floor(position / blockTokens)]!;
        const base = page * pageUnits + (position % blockTokens) * tokenUnits;
        for (let head = 0; head < heads; head++) writes[token * heads + head] = base + head * headUnits;
      }
    }
    // Padding tokens repeat the last token, so that they write its values once more.
    for (let at = numTokens * heads; at < writes.length; at++) writes[at] = writes[at - heads]!;

    this.#calls.forEach(({ rows, numQueries, numBlocks }, c) => {
      const inputs = this.#callInputs[c];
      const [blockSection, maskSection, count] = [inputs?.blocks[g], inputs?.masks[g], numBlocks[g]];
      invariant(blockSection && maskSection && count !== undefined, 'layout comes first');
      const blocks = staged.int32(blockSection);
      const mask = staged.uint16(maskSection).fill(negativeInfinityF16);
      const length = count * blockTokens;
      rows.forEach((row, s) => {
        const { first, count: used } = blockRange(this.#plan, group, blockTokens, row);
        const pageStart = tables.pageStart[row.row]!;
        for (let block = 0; block < count; block++) {
          // Released and missing blocks read page 0, under the mask.
          const page = block < used ? Math.max(0, tables.pages[pageStart + first + block]!) : 0;
          for (let head = 0; head < heads; head++) {
            blocks[(s * heads + head) * count + block] = page * pageUnits + head * headUnits;
          }
        }
        for (let n = 0; n < numQueries; n++) {
          const position = positions[row.firstToken + Math.min(n, row.numTokens - 1)]!;
          const from = firstReadPosition(group.kind, position) - first * blockTokens;
          const start = (s * numQueries + n) * length;
          mask.fill(0, start + from, start + position + 1 - first * blockTokens);
        }
      });
    });
  }

  build(g: Graph, inputs: InputMemory): Attention {
    const leaf = (type: TensorType, shape: readonly number[], section: InputSection) =>
      g.leaf(type, shape, inputs.address + section.offset);
    const { config, groups } = this.#options;
    const { numHeads: H, numKvHeads: G, headDim: K } = config;
    const writeRows = this.#writeRows.map((section) => leaf('I32', [this.#numTokens * G], section));
    invariant(this.#resultRows, 'layout comes first');
    const resultRows = leaf('I32', [this.#numTokens], this.#resultRows);
    const calls = this.#calls.map((call, c) => {
      const sections = this.#callInputs[c];
      invariant(sections, 'layout comes first');
      const S = call.rows.length;
      const N = call.numQueries;
      return {
        S,
        N,
        queryTokens: leaf('I32', [S * N], sections.queryTokens),
        groups: this.#pools.map((pool, i) => {
          const [B, blocks, mask] = [call.numBlocks[i], sections.blocks[i], sections.masks[i]];
          invariant(B !== undefined && blocks && mask, 'layout comes first');
          const L = B * pool.blockTokens;
          return { B, L, blocks: leaf('I32', [S * G * B], blocks), mask: leaf('F16', [S, 1, N, L], mask) };
        }),
      };
    });
    return {
      attend: (graph, layer, q, k, v) => {
        const i = groups.findIndex((group) => group.layers.includes(layer));
        const [pool, rows] = [this.#pools[i], writeRows[i]];
        invariant(pool && rows, `layer ${layer} is in no KV group`);
        const write = (x: Tensor, part: 'key' | 'value') =>
          setRows(
            graph,
            pool.table(graph, layer, part, K),
            graph.reshape(dense(graph, x), [this.#numTokens * G, K]),
            rows,
          );
        write(k, 'key');
        write(v, 'value');
        const flatQ = graph.reshape(q, [this.#numTokens, H * K]);
        const keys = pool.table(graph, layer, 'key', pool.blockTokens * K);
        const values = pool.table(graph, layer, 'value', pool.blockTokens * K);
        let all: Tensor | null = null;
        for (const call of calls) {
          const { S, N } = call;
          const { L, blocks, mask } = call.groups[i] ?? {};
          invariant(L && blocks && mask, 'a call lacks a KV group');
          const queries = getRows(graph, flatQ, call.queryTokens); // [S*N,H*K]
          const byHead = graph.view(queries, [S, H, N, K], [N * H * K * 4, K * 4, H * K * 4, 4]);
          const kept = (table: Tensor) => graph.reshape(getRows(graph, table, blocks), [S, G, L, K]);
          const mixed = flashAttention(graph, byHead, kept(keys), kept(values), mask, config.attentionScale); // [S,N,H,K]
          const rowsOf = graph.reshape(mixed, [S * N, H * K]);
          all = all ? concatRows(graph, all, rowsOf) : rowsOf;
        }
        invariant(all, 'a step without rows');
        return getRows(graph, all, resultRows); // [T,H*K]
      },
    };
  }
}
