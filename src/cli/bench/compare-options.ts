// Owns the options of `xllm bench compare`.
import { z } from 'zod';
import { scenarios } from './scenarios.ts';

export const peerNames = ['llama.cpp', 'openvino', 'vllm'] as const;
export type PeerName = (typeof peerNames)[number];

const scenarioIds = scenarios.map(({ id }) => id) as [string, ...string[]];

export const benchCompareSchema = z.strictObject({
  models: z
    .array(z.string().min(1))
    .default(['smollm2-135m-instruct', 'qwen3-0.6b:q4_0', 'qwen3-0.6b:q8_0'])
    .describe('GGUF files, model names, or synthetic shapes (qwen3-0.6b:q8_0, qwen3-1.7b:q8_0).'),
  peers: z.array(z.enum(peerNames)).optional().describe('Systems to compare with (default: those that are set up).'),
  setUp: z
    .boolean()
    .default(false)
    .describe('Install the peers that are missing (of --peers, else all: minutes, gigabytes), and end.'),
  scenarios: z
    .array(z.enum(scenarioIds))
    .default([...scenarioIds])
    .describe('What to measure.'),
  rounds: z
    .number()
    .int()
    .min(1)
    .default(3)
    .describe('Rounds, systems in turns; after the first, peers run only where they are near the best.'),
  sampleS: z.number().positive().default(20).describe('Longest time that a closed loop is counted, in seconds.'),
  quick: z.boolean().default(false).describe('One round, closed loops counted for at most 8 s: a first look.'),
  threads: z.number().int().min(1).default(2).describe('Compute threads of each system.'),
  serveArgs: z.string().optional().describe('Further flags for our own server, in one text.'),
  maxForeignCores: z
    .number()
    .min(0)
    .default(0.1)
    .describe('A sample is rejected when other processes used more cores than this meanwhile.'),
  maxAttempts: z
    .number()
    .int()
    .min(1)
    .default(3)
    .describe('Attempts per sample; when none is quiet the quietest counts, marked.'),
  cache: z.string().optional().describe('Where peers and models are kept (default: XDG cache folder).'),
  json: z.string().optional().describe('Write machine, commands, samples and checks to this file, after each sample.'),
});

export type BenchCompareOptions = z.output<typeof benchCompareSchema>;

/** What `--quick` stands for. */
export function withQuick(options: BenchCompareOptions): BenchCompareOptions {
  return options.quick ? { ...options, rounds: 1, sampleS: Math.min(8, options.sampleS) } : options;
}
