// Owns every option of every command: one zod schema each, from which flags, variables, config keys, help and docs come.
import { MAX_STEP_TOKENS } from '../../engine/scheduler/plan.ts';
import { kvCacheDtypes } from '../../engine/step/kv-cache-dtype.ts';
import { z } from 'zod';
import { policyNames } from '../../service/routing/policies.ts';

const BYTES = /^\d+(\.\d+)?\s*([KMGT]i?)?B?$/i;

/** Bytes from "512MiB", "2G", "1073741824". Units are binary, with or without the i. */
export function parseBytes(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]?)/i.exec(text);
  const power = ' KMGT'.indexOf((match?.[2] || ' ').toUpperCase());
  return Math.floor(Number(match?.[1]) * 1024 ** power);
}

const bytes = z.string().regex(BYTES, 'is not a size such as 512MiB or 2GiB').transform(parseBytes);
const count = z.number().int().min(1);
const port = z.number().int().min(0).max(65_535);

const modelOptions = {
  cache: z.string().optional().describe('Where downloaded models and packed weights live (default: XDG cache folder).'),
  offline: z.boolean().default(false).describe('Never use the network.'),
};

/** What shapes an engine, whoever starts it. */
const engineOptions = {
  device: z
    .enum(['cpu', 'timed'])
    .default('cpu')
    .describe(
      'timed: no weights; steps take the time that a cost model says, tokens are hashes (for tests, rehearsals).',
    ),
  timeScale: z
    .number()
    .gt(0)
    .max(1_000)
    .default(1)
    .describe('Factor on the times of --device timed; 0.1: ten times as fast.'),
  profile: z.string().optional().describe('Cost model of --device timed: a JSON file (default: a small CPU model).'),
  dtype: z
    .enum(['auto', 'float32', 'bfloat16'])
    .default('auto')
    .describe('auto: weights as stored, KV in F16. float32: weights, activations and KV in F32.'),
  kernels: z
    .enum(['auto', 'avx512', 'avx2', 'ggml'])
    .default('auto')
    .describe('Kernel set. ggml: no machine code is emitted at all.'),
  threads: count
    .optional()
    .describe('Compute threads (default: cores that this process may use, shared by its instances).'),
  deterministic: z
    .boolean()
    .default(false)
    .describe('Choose ggml products whose result does not depend on the batch (slower for some formats).'),
  maxModelLen: count.optional().describe('Longest sequence in tokens (default: what the model and memory allow).'),
  maxNumSeqs: count.max(MAX_STEP_TOKENS).default(64).describe('Most sequences computed in one step.'),
  maxNumBatchedTokens: count.max(MAX_STEP_TOKENS).default(512).describe('Token budget of one step; 8,192 at most.'),
  maxQueueLen: count.default(1024).describe('Most requests waiting; more are refused with 503.'),
  maxQueueWaitS: z
    .number()
    .min(0)
    .default(60)
    .describe('Longest predicted wait; requests beyond it are refused with 503. 0: no limit.'),
  maxNumPartialPrefills: count.default(4).describe('Most prompts prefilled side by side.'),
  maxLongPartialPrefills: count.default(1).describe('Most long prompts among them.'),
  longPrefillThreshold: count.default(256).describe('From how many tokens on a prompt counts as long.'),
  schedulingPolicy: z.enum(['fcfs', 'priority']).default('fcfs').describe('Order of waiting requests.'),
  asyncScheduling: z.boolean().default(true).describe('Plan the next step while the current one computes.'),
  enablePrefixCaching: z.boolean().default(true).describe('Share KV of equal prompt prefixes.'),
  blockSize: z.literal([16, 32, 64, 128, 256, 512]).default(16).describe('Tokens per KV block.'),
  kvLayout: z
    .enum(['auto', 'xtensor', 'blocks'])
    .default('auto')
    .describe('xtensor: one virtual range per sequence. blocks: lists of pages. auto chooses and says so.'),
  weightsMemory: z
    .enum(['auto', 'mapped', 'huge-pages'])
    .default('auto')
    .describe('mapped: cached weights are shared by instances. huge-pages: read into memory of this one.'),
  weightsCacheLimit: bytes
    .prefault('20GiB')
    .describe('Most disk space for weights packed for the kernels; the oldest make room. 0: none are cached.'),
  kvCacheDtype: z
    .enum(kvCacheDtypes)
    .default('auto')
    .describe('Elements of cached keys and values. auto: float16, or float32 with --dtype float32.'),
  kvTransport: z
    .enum(['auto', 'tcp'])
    .default('auto')
    .describe('How KV goes to another instance. auto: on one host its memory is mapped, nothing is sent; else TCP.'),
  perfMap: z
    .boolean()
    .default(false)
    .describe('Write /tmp/perf-PID.map, so that Linux perf shows emitted kernels by name.'),
  kvCacheMemory: bytes.optional().describe('Size of the KV pool, such as 2GiB (default: from free memory and limits).'),
};

/** How the processes of a cluster find and know each other. */
const clusterOptions = {
  coordinatorUser: z.string().optional().describe('User name for etcd; the password comes from a file or a variable.'),
  coordinatorPasswordFile: z
    .string()
    .optional()
    .describe('File with the password for etcd (or XLLM_COORDINATOR_PASSWORD).'),
  coordinatorCa: z.string().optional().describe("PEM of the authority that signed etcd's certificate (etcds://)."),
  coordinatorCert: z.string().optional().describe('PEM of our certificate, where etcd asks for one.'),
  coordinatorKey: z.string().optional().describe('PEM of its key.'),
  clusterTokenFile: z
    .string()
    .optional()
    .describe('File with the token that all processes of a cluster share (or XLLM_CLUSTER_TOKEN).'),
  tlsCert: z.string().optional().describe('PEM of the certificate with which --listen speaks TLS.'),
  tlsKey: z.string().optional().describe('PEM of its key.'),
  tlsCa: z.string().optional().describe('PEM of the authority that signed those of the others: calls to them use TLS.'),
};

const traceOptions = {
  otlpEndpoint: z
    .url({ protocol: /^https?$/ })
    .optional()
    .describe('Send traces there, as OTLP over HTTP (default: OTEL_EXPORTER_OTLP_ENDPOINT; neither: no traces).'),
};

const logOptions = {
  logFormat: z.enum(['text', 'json']).default('text').describe('One line per request, for people or for machines.'),
  logLevel: z.enum(['debug', 'info', 'warn', 'error', 'silent']).default('info').describe('Least severe level shown.'),
};

/** What shapes the HTTP side. */
const serviceOptions = {
  host: z.string().default('127.0.0.1').describe('Address to listen on. Another than loopback wants an API key.'),
  port: port.default(8000).describe('Port to listen on; 0 takes a free one.'),
  servedModelName: z
    .array(z.string().min(1))
    .default([])
    .describe('Names under which the model is served (default: its own).'),
  apiKeyFile: z.string().optional().describe('File with one API key per line; XLLM_API_KEY gives one more.'),
  corsOrigin: z.array(z.string()).default([]).describe('Origins that browsers may call from (default: none).'),
  requestTimeoutS: z.number().min(0).default(0).describe('Cancel requests that run longer; 0: never.'),
  drainTimeoutS: z.number().min(0).default(30).describe('How long a shutdown waits for running requests.'),
};

/** How requests find an instance, and what becomes of them when it fails. */
const routingOptions = {
  routingPolicy: z
    .enum(policyNames)
    .default('cache-aware')
    .describe('How an instance is chosen; POST /v1/cluster/policy changes it while requests run.'),
  targetTtftMs: z
    .number()
    .gt(0)
    .default(1_000)
    .describe('Objective for the first token, for requests that state none.'),
  targetTpotMs: z.number().gt(0).default(50).describe('Objective per later token, for requests that state none.'),
  balanceMargin: z
    .number()
    .refine((margin) => margin === 0 || margin >= 1.1, 'is 0 or at least 1.1')
    .default(0)
    .describe(
      "Move running requests off an instance whose decode steps take so many times as long as another's; 0: never.",
    ),
  suspectTimeoutS: z
    .number()
    .gt(0)
    .default(5)
    .describe('An instance silent for this long gets nothing new, and its requests go on elsewhere.'),
  stallTimeoutS: z.number().gt(0).default(60).describe('The same where it answers but finishes no step.'),
  recoveryWaitS: z
    .number()
    .min(0)
    .optional()
    .describe('How long a request of a failed instance waits for another (default: 30; with one instance 0).'),
};

/** Whom a command about a running server asks. */
const askOptions = {
  url: z.string().default('http://127.0.0.1:8000').describe('The server to ask; its API key comes from XLLM_API_KEY.'),
};

export const commandOptions = {
  serve: z.strictObject({
    ...serviceOptions,
    pd: z
      .string()
      .regex(/^[1-9]\d?:[1-9]\d?$/, 'write it as PREFILL:DECODE, such as 1:1 or 2:2')
      .optional()
      .describe('Engines for prompts and engines for what follows, such as 1:1 or 1:3 (instead of --instances).'),
    instances: count.max(64).default(1).describe('Engines on this machine; they share its cores and memory.'),
    ...routingOptions,
    ...engineOptions,
    ...modelOptions,
    ...traceOptions,
    ...logOptions,
  }),
  service: z.strictObject({
    ...serviceOptions,
    ...routingOptions,
    listen: z
      .string()
      .default('127.0.0.1:8100')
      .describe('Where engines register, without etcd: host:port or unix:/path. Another than loopback wants a token.'),
    coordinator: z
      .string()
      .optional()
      .describe('etcd://host:port[,host:port]/namespace, for several services; etcds:// for TLS (default: --listen).'),
    ...clusterOptions,
    ...modelOptions,
    ...traceOptions,
    ...logOptions,
  }),
  engine: z.strictObject({
    listen: z
      .string()
      .default('127.0.0.1:0')
      .describe('Where the service reaches this engine: host:port or unix:/path. Not loopback: wants a token.'),
    advertise: z
      .string()
      .optional()
      .describe('host:port under which others reach --listen, where that is not the same, as with 0.0.0.0.'),
    coordinator: z
      .string()
      .default('127.0.0.1:8100')
      .describe("Where to register: the service's --listen address, or etcd://host:port[,host:port]/namespace."),
    role: z
      .enum(['mix', 'prefill', 'decode'])
      .default('mix')
      .describe('What this instance does: prompts, generation, or both (mix).'),
    ...clusterOptions,
    modelName: z.string().optional().describe('Name of the model (default: from its path).'),
    name: z.string().default('engine-0').describe('Name of this instance.'),
    instancesOnHost: count.default(1).describe('Instances among which this host shares its memory.'),
    supervised: z.boolean().default(false).describe('Exit when standard input closes; ignore Ctrl-C.'),
    ...engineOptions,
    ...modelOptions,
    ...traceOptions,
    ...logOptions,
  }),
  drain: z.strictObject({
    ...askOptions,
    force: z
      .boolean()
      .default(false)
      .describe('Also where nothing else can serve its model: what runs there then ends there.'),
    timeoutS: z.number().gt(0).default(600).describe('How long to wait until it has left; the drain goes on after it.'),
  }),
  status: z.strictObject({
    ...askOptions,
    json: z.boolean().default(false).describe('Everything, as JSON.'),
  }),
  run: z.strictObject({
    maxTokens: count.default(256).describe('Most tokens to generate.'),
    temperature: z.number().min(0).max(10).default(0).describe('0: always the likeliest token.'),
    seed: z.number().int().optional().describe('Makes sampled text repeatable.'),
    raw: z.boolean().default(false).describe('Complete the text as it is, without the chat template.'),
    ...engineOptions,
    ...modelOptions,
  }),
  chat: z.strictObject({
    url: z.string().optional().describe('Talk to this server instead of starting one, such as http://127.0.0.1:8000.'),
    model: z.string().optional().describe('Served model name at --url.'),
    system: z.string().optional().describe('System message.'),
    maxTokens: count.optional().describe('Most tokens per answer.'),
    temperature: z
      .number()
      .min(0)
      .max(10)
      .optional()
      .describe("0: always the likeliest token (default: the model's own)."),
    ...engineOptions,
    ...modelOptions,
  }),
} as const;

export type CommandName = keyof typeof commandOptions;
export type OptionsOf<C extends CommandName> = z.output<(typeof commandOptions)[C]>;
export type ServeOptions = OptionsOf<'serve'>;
export type EngineOptions = OptionsOf<'engine'>;
export type ServiceOptions = OptionsOf<'service'>;
