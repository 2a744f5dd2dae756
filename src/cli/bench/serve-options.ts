// Owns the options of `xllm bench serve`; names follow vLLM's `bench serve`.
import { z } from 'zod';
import { XllmError } from '../../common/errors.ts';
import type { GoodputLimits } from './metrics.ts';

const count = z.number().int().min(1);

export const benchServeSchema = z.strictObject({
  url: z.string().default('http://127.0.0.1:8000').describe('Server to load: any that speaks the OpenAI API.'),
  model: z.string().optional().describe('Model to ask for (default: the first of /v1/models).'),
  endpoint: z.enum(['completions', 'chat']).default('completions').describe('API to call, always streaming.'),
  promptForm: z
    .enum(['ids', 'text'])
    .optional()
    .describe('Send token ids or text (default: ids for completions, text for chat).'),
  numPrompts: count.optional().describe('Requests to send (default: 100, or the whole trace).'),
  numWarmups: z.number().int().min(0).default(1).describe('Requests sent first, one after another, and not counted.'),
  maxConcurrency: count.optional().describe('Most requests at once: alone, a closed loop.'),
  requestRate: z
    .number()
    .positive()
    .optional()
    .describe('Mean arrivals per second, a Poisson process (default: all at once).'),
  burstiness: z
    .number()
    .positive()
    .default(1)
    .describe('Shape of the gamma distribution of gaps: 1 is Poisson, less is burstier, more is steadier.'),
  trace: z.string().optional().describe('Replay this trace (Azure LLM CSV or Mooncake JSONL): arrivals and lengths.'),
  scale: z.number().positive().default(1).describe('Replay the trace this many times as fast.'),
  maxInputLen: count.optional().describe("Scale the trace's prompts so that its longest has this many tokens."),
  maxOutputLen: count.optional().describe("Scale the trace's outputs so that its longest has this many tokens."),
  promptsFile: z
    .string()
    .optional()
    .describe('Take prompts from this file: one per line, or JSON lines with "prompt" and "max_tokens".'),
  randomInputLen: count.default(256).describe('Mean length of random prompts, in tokens.'),
  randomOutputLen: count.default(128).describe('Mean number of tokens asked for.'),
  randomRangeRatio: z
    .number()
    .min(0)
    .max(1)
    .default(0)
    .describe('Lengths vary uniformly by this part of their mean, up and down.'),
  prefixLen: z.number().int().min(0).default(0).describe('Tokens that all random prompts share, before their own.'),
  vocabSize: count.default(30_000).describe('Random token ids lie between 1000 and this.'),
  ignoreEos: z.boolean().default(false).describe('Ask for exactly the wanted number of tokens.'),
  temperature: z.number().min(0).max(10).default(0).describe('Sampling temperature that is asked for.'),
  extraBody: z.string().optional().describe('JSON object merged into every request body.'),
  goodput: z
    .array(z.string())
    .default([])
    .describe('Limits in ms that a good request meets: ttft:200, tpot:50, e2el:5000.'),
  keepAlive: z.boolean().default(true).describe('Reuse connections between requests.'),
  timeoutS: z.number().positive().default(600).describe('A request that takes longer has failed.'),
  seed: z.number().int().default(0).describe('Same seed, same prompts and arrivals.'),
  json: z.string().optional().describe('Write machine, parameters and results to this file.'),
});

export type BenchServeOptions = z.output<typeof benchServeSchema>;

const LIMIT_NAMES = ['ttft', 'tpot', 'e2el'] as const;

/** Parses `ttft:200` pairs, apart or in one text. Throws XllmError `usage`. */
export function parseGoodput(pairs: readonly string[]): GoodputLimits {
  const limits: { -readonly [name in keyof GoodputLimits]: GoodputLimits[name] } = {};
  for (const pair of pairs.flatMap((text) => text.split(/[\s,]+/)).filter((text) => text !== '')) {
    const [text, valueText = ''] = pair.split(':');
    const name = LIMIT_NAMES.find((known) => known === text);
    const value = Number(valueText);
    if (name === undefined || valueText === '' || !(value >= 0))
      throw new XllmError('usage', `--goodput: ${pair} is not one of ttft:MS, tpot:MS, e2el:MS`);
    limits[name] = value;
  }
  return limits;
}

/** Checks what the schema cannot say field by field. Throws XllmError `usage`. */
export function checkBenchServe(options: BenchServeOptions): void {
  const refuse = (message: string): never => {
    throw new XllmError('usage', message);
  };
  if (!URL.canParse(options.url)) refuse(`--url: ${options.url} is no URL; give one such as http://127.0.0.1:8000`);
  if (options.endpoint === 'chat' && options.promptForm === 'ids') refuse('--endpoint chat takes text prompts only');
  if (options.trace !== undefined && options.promptsFile !== undefined)
    refuse('--trace and --prompts-file exclude each other');
  if (options.trace !== undefined && options.requestRate !== undefined)
    refuse('--trace brings its own arrival times: use --scale instead of --request-rate');
  if (options.trace === undefined && (options.maxInputLen !== undefined || options.maxOutputLen !== undefined))
    refuse('--max-input-len and --max-output-len scale a --trace; use --random-input-len and --random-output-len');
  if (options.burstiness !== 1 && options.requestRate === undefined) refuse('--burstiness needs --request-rate');
  parseGoodput(options.goodput);
}
