// Owns the typed surface of ggml's C functions. Addresses are plain numbers; ggml's dimension order is innermost first.
import { type GgmlLibraries, loadGgmlLibraries, type NativeLibrary } from './ggml-library.ts';
import { assertLayout, planBytes } from './ggml-layout.ts';
import { type Address, koffi } from './koffi.ts';

export type GgmlContext = Address;
export type GgmlTensor = Address;
export type GgmlGraph = Address;

type N = number;
type T = GgmlTensor;
type C = GgmlContext;

/** Every call is unchecked: ggml aborts the process on a wrong shape, so callers check first. */
export interface Ggml {
  readonly variant: string;
  readonly version: string;
  readonly commit: string;

  init(params: { mem_size: N; mem_buffer: Address | null; no_alloc: boolean }): C;
  free(ctx: C): void;
  memBuffer(ctx: C): Address;
  memSize(ctx: C): N;
  tensorOverhead(): N;
  graphOverhead(numNodes: N, grads: boolean): N;
  nbytes(t: T): N;
  rowSize(type: N, ne0: N): N;
  blockSize(type: N): N;
  getData(t: T): Address;
  newTensor(ctx: C, type: N, ne0: N, ne1: N, ne2: N, ne3: N): T;

  newGraph(ctx: C, numNodes: N, grads: boolean): GgmlGraph;
  expand(graph: GgmlGraph, t: T): void;

  add(ctx: C, a: T, b: T): T;
  mul(ctx: C, a: T, b: T): T;
  scale(ctx: C, a: T, factor: N): T;
  scaleBias(ctx: C, a: T, factor: N, bias: N): T;
  tanh(ctx: C, a: T): T;
  mulMat(ctx: C, a: T, b: T): T;
  rmsNorm(ctx: C, a: T, eps: N): T;
  getRows(ctx: C, a: T, rows: T): T;
  setRows(ctx: C, a: T, b: T, rows: T): T;
  cont(ctx: C, a: T): T;
  concat(ctx: C, a: T, b: T, dim: N): T;
  reshape4d(ctx: C, a: T, ne0: N, ne1: N, ne2: N, ne3: N): T;
  view4d(ctx: C, a: T, ne0: N, ne1: N, ne2: N, ne3: N, nb1: N, nb2: N, nb3: N, offset: N): T;
  permute(ctx: C, a: T, axis0: N, axis1: N, axis2: N, axis3: N): T;
  swiglu(ctx: C, a: T): T;
  swigluSplit(ctx: C, a: T, b: T): T;
  geglu(ctx: C, a: T): T;
  gegluSplit(ctx: C, a: T, b: T): T;
  ropeExt(
    ctx: C,
    a: T,
    positions: T,
    frequencyFactors: T | null,
    numDims: N,
    mode: N,
    originalContext: N,
    base: N,
    scale: N,
    extFactor: N,
    attnFactor: N,
    betaFast: N,
    betaSlow: N,
  ): T;
  flashAttention(ctx: C, q: T, k: T, v: T, mask: T | null, scale: N, maxBias: N, softCap: N): T;
  /** `fn` is the address of `void fn(ggml_tensor *dst, int ith, int nth, void *userdata)`; it never runs JavaScript. */
  custom(
    ctx: C,
    type: N,
    ne0: N,
    ne1: N,
    ne2: N,
    ne3: N,
    sources: BigUint64Array,
    numSources: N,
    fn: Address,
    numTasks: N,
    userData: Address,
  ): T;

  /** Fills `target`, a whole number of the format's blocks. */
  dequantizeRow(type: N, source: Uint8Array, target: Float32Array): void;
  /** Rows of `rowElements` each; a format that ggml can round to (F16, BF16, Q*). */
  quantizeRows(type: N, source: Float32Array, target: Uint8Array, numRows: N, rowElements: N): void;

  threadpoolNew(numThreads: N, poll: N): Address;
  threadpoolFree(pool: Address): void;
  /** Bytes of scratch that the graph needs with that many threads. */
  planWorkBytes(graph: GgmlGraph, numThreads: N, pool: Address): N;
  /** Blocks this thread. */
  compute(graph: GgmlGraph, plan: Address): N;
  /** Runs on a thread of libuv's pool. Both addresses must stay valid until it resolves with ggml's status. */
  computeAsync(graph: GgmlGraph, plan: Address): Promise<N>;
}

let loaded: Ggml | undefined;

/** The process's ggml; bound once. Throws XllmError native_unavailable. `variant` counts on the first call only. */
export function openGgml(variant?: string): Ggml {
  loaded ??= bind(loadGgmlLibraries(variant));
  return loaded;
}

/** How a C type is written for koffi: addresses travel as numbers. */
const shorthand: Readonly<Record<string, string>> = { P: 'uintptr_t', L: 'int64_t', S: 'size_t', I: 'int', F: 'float' };

function bind({ base, cpu, variant }: GgmlLibraries): Ggml {
  koffi.struct('xllm_ggml_init_params', { mem_size: 'size_t', mem_buffer: 'void *', no_alloc: 'bool' });
  koffi.struct('xllm_ggml_threadpool_params', {
    cpumask: koffi.array('bool', 512),
    n_threads: 'int',
    prio: 'int',
    poll: 'uint32_t',
    strict_cpu: 'bool',
    paused: 'bool',
  });
  koffi.struct('xllm_ggml_cplan', {
    work_size: 'size_t',
    work_data: 'uintptr_t',
    n_threads: 'int',
    threadpool: 'uintptr_t',
    abort_callback: 'uintptr_t',
    abort_callback_data: 'uintptr_t',
    use_ref: 'bool',
  });
  const fn = <F>(library: NativeLibrary, prototype: string): F => library.func(prototype) as unknown as F;
  /** `P name(P, …)`: results and arguments in shorthand. */
  const short = <F>(name: string, args: string, result = 'P'): F => {
    const types = Array.from(args, (letter) => shorthand[letter]).join(', ');
    return fn<F>(base, `${shorthand[result]} ggml_${name}(${types})`);
  };

  const defaults = fn<(n: N) => Record<string, unknown>>(
    base,
    'xllm_ggml_threadpool_params ggml_threadpool_params_default(int)',
  );
  const poolNew = fn<(params: Record<string, unknown>) => Address>(
    cpu,
    'uintptr_t ggml_threadpool_new(_Inout_ xllm_ggml_threadpool_params *)',
  );
  const plan = fn<(graph: GgmlGraph, n: N, pool: Address) => { work_size: N }>(
    cpu,
    'xllm_ggml_cplan ggml_graph_plan(uintptr_t, int, uintptr_t)',
  );
  const compute = cpu.func('int ggml_graph_compute(uintptr_t, uintptr_t)');
  const quantize = fn<(type: N, src: Float32Array, dst: Uint8Array, start: N, rows: N, perRow: N, m: null) => N>(
    base,
    'size_t ggml_quantize_chunk(int, const float *, uint8_t *, int64_t, int64_t, int64_t, const float *)',
  );

  const api: Ggml = {
    variant,
    version: fn<() => string>(base, 'const char *ggml_version()')(),
    commit: fn<() => string>(base, 'const char *ggml_commit()')(),
    init: fn(base, 'uintptr_t ggml_init(xllm_ggml_init_params)'),
    free: fn(base, 'void ggml_free(uintptr_t)'),
    memBuffer: short('get_mem_buffer', 'P'),
    memSize: short('get_mem_size', 'P', 'S'),
    tensorOverhead: short('tensor_overhead', '', 'S'),
    graphOverhead: fn(base, 'size_t ggml_graph_overhead_custom(size_t, bool)'),
    nbytes: short('nbytes', 'P', 'S'),
    rowSize: short('row_size', 'IL', 'S'),
    blockSize: short('blck_size', 'I', 'L'),
    getData: short('get_data', 'P'),
    newTensor: short('new_tensor_4d', 'PILLLL'),
    newGraph: fn(base, 'uintptr_t ggml_new_graph_custom(uintptr_t, size_t, bool)'),
    expand: fn(base, 'void ggml_build_forward_expand(uintptr_t, uintptr_t)'),
    add: short('add', 'PPP'),
    mul: short('mul', 'PPP'),
    scale: short('scale', 'PPF'),
    scaleBias: short('scale_bias', 'PPFF'),
    tanh: short('tanh', 'PP'),
    mulMat: short('mul_mat', 'PPP'),
    rmsNorm: short('rms_norm', 'PPF'),
    getRows: short('get_rows', 'PPP'),
    setRows: short('set_rows', 'PPPP'),
    cont: short('cont', 'PP'),
    concat: short('concat', 'PPPI'),
    reshape4d: short('reshape_4d', 'PPLLLL'),
    view4d: short('view_4d', 'PPLLLLSSSS'),
    permute: short('permute', 'PPIIII'),
    swiglu: short('swiglu', 'PP'),
    swigluSplit: short('swiglu_split', 'PPP'),
    geglu: short('geglu', 'PP'),
    gegluSplit: short('geglu_split', 'PPP'),
    ropeExt: short('rope_ext', 'PPPPIIIFFFFFF'),
    flashAttention: short('flash_attn_ext', 'PPPPPFFF'),
    custom: fn(
      base,
      'uintptr_t ggml_custom_4d(uintptr_t, int, int64_t, int64_t, int64_t, int64_t, const uint64_t *, int, uintptr_t, int, uintptr_t)',
    ),
    dequantizeRow: bindDequantize(base),
    quantizeRows: (type, source, target, numRows, rowElements) => {
      quantize(type, source, target, 0, numRows, rowElements, null);
    },
    threadpoolNew: (numThreads, poll) => poolNew({ ...defaults(numThreads), poll }),
    threadpoolFree: fn(cpu, 'void ggml_threadpool_free(uintptr_t)'),
    planWorkBytes: (graph, numThreads, pool) => Number(plan(graph, numThreads, pool).work_size),
    compute: compute as unknown as Ggml['compute'],
    computeAsync: (graph, planAddress) =>
      new Promise((resolve, reject) => {
        compute.async(graph, planAddress, (error: unknown, status: number) => {
          if (error) reject(error as Error);
          else resolve(status);
        });
      }),
  };
  assertLayout(api, koffi.sizeof('xllm_ggml_cplan') === planBytes);
  return api;
}

/** By enum ggml_type: formats with an exported conversion to F32. */
const toFloatSymbols: Readonly<Record<number, string>> = {
  1: 'ggml_fp16_to_fp32_row',
  2: 'dequantize_row_q4_0',
  3: 'dequantize_row_q4_1',
  6: 'dequantize_row_q5_0',
  7: 'dequantize_row_q5_1',
  8: 'dequantize_row_q8_0',
  10: 'dequantize_row_q2_K',
  11: 'dequantize_row_q3_K',
  12: 'dequantize_row_q4_K',
  13: 'dequantize_row_q5_K',
  14: 'dequantize_row_q6_K',
  20: 'dequantize_row_iq4_nl',
  30: 'ggml_bf16_to_fp32_row',
  39: 'dequantize_row_mxfp4',
};

/** One function per format, bound on first use. */
function bindDequantize(base: NativeLibrary): Ggml['dequantizeRow'] {
  type Convert = (source: Uint8Array, target: Float32Array, count: number) => void;
  const bound = new Map<number, Convert>();
  return (type, source, target) => {
    let convert = bound.get(type);
    if (!convert) {
      convert = base.func(`void ${toFloatSymbols[type]}(const uint8_t *, float *, int64_t)`) as unknown as Convert;
      bound.set(type, convert);
    }
    convert(source, target, target.length);
  };
}
