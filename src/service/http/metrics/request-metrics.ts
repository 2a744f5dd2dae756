// Owns the figures that the service measures itself, under vLLM's names and buckets.
// Names and buckets: vLLM docs/design/metrics.md and vllm/v1/metrics/loggers.py.
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';

const LABELS = ['model_name', 'engine'] as const;
type Label = (typeof LABELS)[number];

const TTFT_S = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
];
const TOKEN_GAP_S = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];
const REQUEST_S = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680];
/** vLLM ends these at the model's length; a registry made before the model is known needs a fixed end. */
const TOKENS = [1, 2, 5]
  .flatMap((digit) => [0, 1, 2, 3, 4, 5].map((power) => digit * 10 ** power))
  .sort((a, b) => a - b);
const PREEMPTIONS = [0, 1, 2, 5, 10, 20, 50];

export interface FinishedRequest {
  readonly promptTokens: number;
  /** Of the longest choice. */
  readonly maxGenerated: number;
  readonly numPreemptions: number;
  readonly e2eS: number;
  /** null: not reached. */
  readonly queueS: number | null;
  readonly prefillS: number | null;
  readonly decodeS: number | null;
  readonly tokenizeS: number | null;
  readonly routeS: number | null;
  readonly firstDecodeS: number | null;
}

/** The engine label is vLLM's data-parallel rank; there is one engine. */
const labels = (model: string) => ({ model_name: model, engine: '0' });

export class RequestMetrics {
  readonly #histograms: Readonly<Record<HistogramName, Histogram<Label>>>;
  readonly #promptTokens: Counter<Label>;
  readonly #generationTokens: Counter<Label>;
  readonly #success: Counter<Label | 'finished_reason'>;
  readonly #objectives: Counter<'model_name' | 'slo' | 'met'>;
  readonly #httpRequests: Counter<'method' | 'path' | 'status'>;
  readonly #openStreams: Gauge;
  readonly #slowReaders: Counter<'outcome'>;

  constructor(registry: Registry) {
    const registers = [registry];
    const histogram = (name: HistogramName) =>
      new Histogram({ name: `${prefixOf(name)}:${name}`, ...histograms[name], labelNames: LABELS, registers });
    this.#histograms = Object.fromEntries(
      (Object.keys(histograms) as HistogramName[]).map((name) => [name, histogram(name)]),
    ) as Record<HistogramName, Histogram<Label>>;
    this.#promptTokens = new Counter({
      name: 'vllm:prompt_tokens_total',
      help: 'Prompt tokens of finished requests, cached ones included.',
      labelNames: LABELS,
      registers,
    });
    this.#generationTokens = new Counter({
      name: 'vllm:generation_tokens_total',
      help: 'Tokens generated.',
      labelNames: LABELS,
      registers,
    });
    this.#success = new Counter({
      name: 'vllm:request_success_total',
      help: 'Choices ended, by reason.',
      labelNames: [...LABELS, 'finished_reason'],
      registers,
    });
    this.#objectives = new Counter({
      name: 'xllm:request_slo_total',
      help: 'Requests that stated an objective (ttft_slo_ms, tpot_slo_ms), by whether they met it.',
      labelNames: ['model_name', 'slo', 'met'],
      registers,
    });
    this.#httpRequests = new Counter({
      name: 'xllm:http_requests_total',
      help: 'HTTP requests ended.',
      labelNames: ['method', 'path', 'status'],
      registers,
    });
    this.#openStreams = new Gauge({ name: 'xllm:http_streams_open', help: 'Event streams being sent.', registers });
    this.#slowReaders = new Counter({
      name: 'xllm:slow_readers_total',
      help: 'Streams whose reader fell behind: paused, and cancelled.',
      labelNames: ['outcome'],
      registers,
    });
  }

  firstToken(model: string, seconds: number): void {
    this.#histograms.time_to_first_token_seconds.observe(labels(model), seconds);
  }

  interToken(model: string, seconds: number): void {
    this.#histograms.inter_token_latency_seconds.observe(labels(model), seconds);
  }

  generated(model: string, numTokens: number): void {
    this.#generationTokens.inc(labels(model), numTokens);
  }

  /** `numTokens` null: it ended before it was done. */
  choiceFinished(model: string, reason: string, numTokens: number | null): void {
    this.#success.inc({ ...labels(model), finished_reason: reason });
    if (numTokens !== null) this.#histograms.request_generation_tokens.observe(labels(model), numTokens);
  }

  requestFinished(model: string, request: FinishedRequest): void {
    const observe = (name: HistogramName, value: number | null) => {
      if (value !== null) this.#histograms[name].observe(labels(model), value);
    };
    this.#promptTokens.inc(labels(model), request.promptTokens);
    observe('request_prompt_tokens', request.promptTokens);
    observe('request_max_num_generation_tokens', request.maxGenerated);
    observe('request_num_preemptions', request.numPreemptions);
    observe('e2e_request_latency_seconds', request.e2eS);
    observe('request_queue_time_seconds', request.queueS);
    observe('request_prefill_time_seconds', request.prefillS);
    observe('request_decode_time_seconds', request.decodeS);
    observe('request_tokenize_time_seconds', request.tokenizeS);
    observe('request_route_time_seconds', request.routeS);
    observe('request_first_decode_time_seconds', request.firstDecodeS);
  }

  objective(model: string, slo: 'ttft' | 'tpot', met: boolean): void {
    this.#objectives.inc({ model_name: model, slo, met: String(met) });
  }

  /** `path`: the route's pattern, so that clients cannot make up label values. */
  httpRequest(method: string, path: string, status: number): void {
    this.#httpRequests.inc({ method, path, status: String(status) });
  }

  streamOpened(): void {
    this.#openStreams.inc();
  }

  streamClosed(): void {
    this.#openStreams.dec();
  }

  slowReader(outcome: 'paused' | 'cancelled'): void {
    this.#slowReaders.inc({ outcome });
  }
}

/** Stages that vLLM has no name for. */
const ownHistograms = {
  request_tokenize_time_seconds: { help: 'Template and tokenizer, waiting for a worker included.', buckets: TTFT_S },
  request_route_time_seconds: { help: 'Prompt tokens known to admitted by an engine, all tries.', buckets: TTFT_S },
  request_first_decode_time_seconds: { help: 'First to second delivery of tokens of a choice.', buckets: TTFT_S },
} as const;

const histograms = {
  ...ownHistograms,
  time_to_first_token_seconds: { help: 'Arrival to first token.', buckets: TTFT_S },
  inter_token_latency_seconds: { help: 'Gap between deliveries of tokens of one choice.', buckets: TOKEN_GAP_S },
  e2e_request_latency_seconds: { help: 'Arrival to the end of the reply.', buckets: REQUEST_S },
  request_queue_time_seconds: { help: 'Arrival at the engine to first admission to a step.', buckets: REQUEST_S },
  request_prefill_time_seconds: { help: 'First admission to a step to first token.', buckets: REQUEST_S },
  request_decode_time_seconds: { help: 'First token to last token.', buckets: REQUEST_S },
  request_prompt_tokens: { help: 'Prompt tokens per request.', buckets: TOKENS },
  request_generation_tokens: { help: 'Generated tokens per choice.', buckets: TOKENS },
  request_max_num_generation_tokens: { help: 'Generated tokens of the longest choice.', buckets: TOKENS },
  request_num_preemptions: { help: 'Preemptions per request.', buckets: PREEMPTIONS },
} as const;
type HistogramName = keyof typeof histograms;

const prefixOf = (name: HistogramName) => (name in ownHistograms ? 'xllm' : 'vllm');
