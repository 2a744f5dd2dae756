// Owns `xllm run`: one prompt in, its answer on standard output, no server.
import { create } from '@bufbuild/protobuf';
import { isRefusal, XllmError } from '../common/errors.ts';
import { createLog } from '../common/log.ts';
import { SamplingSchema } from '../contract/generated/xllm_pb.js';
import { type EngineDelta, ordinaryRequest } from '../service/engine-client.ts';
import { defaultHealthLimits } from '../service/registry/instance-state.ts';
import { defaultRouting } from '../service/engines/routed-engine.ts';
import { createTextService } from '../service/text/create-text-service.ts';
import type { TextService } from '../service/text/text-service.ts';
import type { OptionsOf } from './config/options.ts';
import { createLocalEngines, localInstances } from './local-engines.ts';
import { findModel } from './model.ts';

export async function run(options: OptionsOf<'run'>, args: readonly string[]): Promise<void> {
  const [spec, ...words] = args;
  const prompt = words.length > 0 ? words.join(' ') : await readStandardInput();
  if (prompt.trim() === '')
    throw new XllmError('usage', 'there is no prompt: give one after the model, or on standard input');
  const log = createLog({ format: 'text', level: 'warn' });
  const model = await findModel(spec, options);
  const text = await createTextService(model.path);
  const local = await createLocalEngines({
    modelPath: model.path,
    modelName: model.name,
    engineOptions: options,
    instances: localInstances(undefined, 1),
    routing: defaultRouting,
    suspectMs: defaultHealthLimits.silentMs,
    stallMs: defaultHealthLimits.stalledMs,
    log,
  });
  local.start();
  const onSignal = () => {
    void local.close(0).then(() => process.exit(130));
  };
  process.once('SIGINT', onSignal);
  try {
    const { model: name, maxModelLen } = await local.ready;
    const promptIds = await encode(text, prompt, options.raw);
    const { promise: ended, resolve, reject } = Promise.withResolvers<void>();
    const decoder = text.createStreamDecoder({ skipSpecialTokens: true });
    const handle = await local.engine.submit(
      {
        ...ordinaryRequest,
        requestId: 'run',
        model: name,
        promptIds,
        sampling: create(SamplingSchema, {
          temperature: options.temperature,
          topP: 1,
          repetitionPenalty: 1,
          numLogprobs: -1,
          numPromptLogprobs: -1,
        }),
        maxTokens: Math.max(1, Math.min(options.maxTokens, maxModelLen - promptIds.length)),
        seeds: [BigInt(options.seed ?? Math.floor(Math.random() * 2 ** 48))],
      },
      (delta) => {
        writeDelta(delta, decoder.push.bind(decoder));
        if (delta.finish === null) return;
        process.stdout.write(`${decoder.flush()}\n`);
        if (delta.error) reject(new XllmError(delta.error.refused, delta.error.message));
        else resolve();
      },
    );
    if (isRefusal(handle)) throw new XllmError(handle.refused, handle.message);
    await ended;
  } finally {
    process.off('SIGINT', onSignal);
    await local.close(5_000);
    await text.close();
  }
}

/** The stop token ends the answer and is not part of it. */
function writeDelta(delta: EngineDelta, decode: (id: number) => string): void {
  const ids = delta.stopTokenId === null ? delta.tokenIds : delta.tokenIds.subarray(0, -1);
  for (const id of ids) process.stdout.write(decode(id));
}

async function encode(text: TextService, prompt: string, isRaw: boolean): Promise<Int32Array> {
  if (isRaw || !text.hasChatTemplate) return text.encode(prompt, { addSpecialTokens: true, parseSpecialTokens: false });
  const chat = await text.encodeChat({
    messages: [{ role: 'user', content: prompt }],
    addGenerationPrompt: true,
    continueFinalMessage: false,
    kwargs: {},
    tools: null,
  });
  return chat.ids;
}

async function readStandardInput(): Promise<string> {
  if (process.stdin.isTTY) return '';
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('utf8');
}
