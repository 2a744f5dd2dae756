// Owns the options of `xllm bench compare`.
import { z } from 'zod';
import { defaultScenarioIds, scenarios } from './scenarios.ts';

const peerNames = ['llama.cpp', 'llama.cpp:Q4_0'] as const;

const scenarioIds = scenarios.map(({ id }) => id) as [string, ...string[]];

export const benchCompareSchema = z.strictObject({
  models: z
    .array(z.string().min(1))
    .default(['smollm2-135m-instruct', 'qwen3-0.6b:q8_0'])
    .describe('GGUF files, model names, or synthetic shapes (qwen3-0.6b:q8_0, qwen3-1.7b:q8_0).'),
  peers: z.array(z.enum(peerNames)).default(['llama.cpp']).describe('Systems to compare with; built when missing.'),
  scenarios: z
    .array(z.enum(scenarioIds))
    .default([...defaultScenarioIds])
    .describe('What to measure.'),
  rounds: z.number().int().min(1).default(3).describe('Rounds; every system runs once in each, in turns.'),
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
  json: z.string().optional().describe('Write machine, commands, samples and checks to this file.'),
});

export type BenchCompareOptions = z.output<typeof benchCompareSchema>;
