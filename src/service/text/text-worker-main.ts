// Owns the work of a text worker thread, which holds a tokenizer and its chat templates: one call at a time, in order.
import { parentPort, workerData } from 'node:worker_threads';
import { assertNever, invariant, XllmError } from '../../common/errors.ts';
import { openDescription } from '../../files/open-weights.ts';
import { ChatTemplates } from './chat-template.ts';
import { decodeTokens } from './stream-decoder.ts';
import { type SharedTokenTable, TokenTable } from './token-table.ts';
import { hasGgufTokenizer, readGgufTokenizer } from './tokenizer-gguf.ts';
import { hasTokenizerJson, readTokenizerFolder } from './tokenizer-json.ts';
import { shareSpec, type TokenizerSpec } from './tokenizer-spec.ts';
import { Tokenizer } from './tokenizer.ts';
import type { Sent, TextCall, TextResult, TextWorkerData, TextWorkerReady } from './worker-messages.ts';

interface Loaded {
  readonly tokenizer: Tokenizer;
  readonly templates: ChatTemplates;
  readonly shared: SharedTokenTable;
  readonly table: TokenTable;
}

/** tokenizer.json of a folder, metadata of a GGUF file; null where the model has no tokenizer. */
async function readSpec(modelPath: string): Promise<TokenizerSpec | null> {
  if (hasTokenizerJson(modelPath)) return readTokenizerFolder(modelPath);
  const weights = await openDescription(modelPath);
  try {
    if (weights.kind === 'gguf') return hasGgufTokenizer(weights.metadata) ? readGgufTokenizer(weights.metadata) : null;
    return hasTokenizerJson(weights.folder) ? readTokenizerFolder(weights.folder) : null;
  } finally {
    weights.close();
  }
}

function load(spec: TokenizerSpec, { limits }: TextWorkerData): Loaded {
  const shared = shareSpec(spec);
  const controlTokens = spec.added.filter((token) => token.special).map((token) => token.content);
  return {
    tokenizer: new Tokenizer(spec),
    templates: new ChatTemplates({
      sources: spec.chatTemplates,
      variables: spec.specialTokens,
      controlTokens,
      limits,
    }),
    shared,
    table: new TokenTable(shared),
  };
}

function run({ tokenizer, templates, table }: Loaded, call: TextCall): TextResult {
  switch (call.kind) {
    case 'encode':
      return { ids: tokenizer.encode(call.text, call.options), text: '' };
    case 'chat': {
      const { text, shield } = templates.render(call.input, call.nowMs);
      return { ids: tokenizer.encodeShielded(text, shield), text: text.replaceAll(shield, '') };
    }
    case 'decode':
      return { ids: new Int32Array(0), text: decodeTokens(table, call.ids, call.options) };
    default:
      return assertNever(call);
  }
}

function sentError(error: unknown): Sent<never> {
  if (error instanceof XllmError) {
    return { ok: false, error: { code: error.code, message: error.message, param: error.param } };
  }
  const { message, stack } = error as Error;
  // Recursion over the caller's data, or a string beyond what the runtime can hold.
  if (error instanceof RangeError) {
    return {
      ok: false,
      error: { code: 'invalid_request', message: `the text cannot be processed: ${message}`, param: undefined },
    };
  }
  return { ok: false, error: { code: 'internal_error', message: stack ?? message, param: undefined } };
}

const port = parentPort;
invariant(port !== null, 'this module runs as a worker');
const data = workerData as TextWorkerData;
try {
  const spec = await readSpec(data.modelPath);
  const loaded = spec === null ? null : load(spec, data);
  if (loaded !== null) {
    port.on('message', (call: TextCall) => {
      let reply: Sent<TextResult>;
      try {
        reply = { ok: true, value: run(loaded, call) };
      } catch (error) {
        reply = sentError(error);
      }
      port.postMessage(reply, reply.ok ? [reply.value.ids.buffer as ArrayBuffer] : []);
    });
  }
  const value = loaded === null ? null : { table: loaded.shared, hasChatTemplate: (spec?.chatTemplates.size ?? 0) > 0 };
  port.postMessage({ ok: true, value } satisfies Sent<TextWorkerReady | null>);
} catch (error) {
  port.postMessage(sentError(error));
}
