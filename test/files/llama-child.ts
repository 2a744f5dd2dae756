// Owns a process that loads each GGUF file named on its command line in llama.cpp (the libraries of the platform
// package), computes eight tokens, and prints one JSON line with the last one's logits.
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { koffi } from '../../src/engine/ffi/koffi.ts';

const platform = `${process.platform}-${process.arch}`;
const folder = fileURLToPath(new URL(`../bins/${platform}/`, import.meta.resolve(`@node-llama-cpp/${platform}`)));

/** Versions are part of the names. */
function load(pattern: RegExp) {
  const name = readdirSync(folder).find((entry) => pattern.test(entry));
  if (name === undefined) throw new Error(`no ${pattern} in ${folder}`);
  return koffi.load(folder + name, { global: true });
}

load(/^libggml-base\.so$/);
const ggml = load(/^libggml\.v.*\.so$/);
const llama = load(/^libllama\.v.*\.so$/);

// Parameters stay what the library's defaults are, so their layout does not matter, only that the struct is not larger.
koffi.struct('Parameters', { words: koffi.array('uint64_t', 64) });
koffi.struct('Batch', {
  numTokens: 'int32_t',
  tokens: 'void *',
  embeddings: 'void *',
  positions: 'void *',
  numSequences: 'void *',
  sequences: 'void *',
  logits: 'void *',
});
const quiet = koffi.register(
  () => {},
  koffi.pointer(koffi.proto('void LogCallback(int level, const char *text, void *user)')),
);
llama.func('void llama_log_set(LogCallback *callback, void *user)')(quiet, null);
ggml.func('void ggml_backend_load_all_from_path(const char *folder)')(folder);
const modelDefaults = llama.func('Parameters llama_model_default_params()');
const contextDefaults = llama.func('Parameters llama_context_default_params()');
const loadModel = llama.func('void *llama_model_load_from_file(const char *path, Parameters parameters)');
const createContext = llama.func('void *llama_init_from_model(void *model, Parameters parameters)');
const setThreads = llama.func('void llama_set_n_threads(void *context, int32_t decode, int32_t batch)');
const batchOf = llama.func('Batch llama_batch_get_one(int32_t *tokens, int32_t numTokens)');
const decode = llama.func('int llama_decode(void *context, Batch batch)');
const logitsOf = llama.func('float *llama_get_logits_ith(void *context, int32_t row)');

const ids = [1, 5, 9, 20, 33, 40, 41, 42];
const numLogits = 512;
for (const path of process.argv.slice(2)) {
  const model: unknown = loadModel(path, modelDefaults());
  if (model === null) throw new Error(`llama.cpp does not load ${path}`);
  const context: unknown = createContext(model, contextDefaults());
  // Its default of four spinning threads takes seconds where cores are few and busy.
  setThreads(context, 1, 1);
  const tokens: unknown = koffi.alloc('int32_t', ids.length);
  koffi.encode(tokens, koffi.array('int32_t', ids.length), ids);
  const status: unknown = decode(context, batchOf(tokens, ids.length));
  const logits = Array.from(koffi.decode(logitsOf(context, -1), koffi.array('float', numLogits)) as ArrayLike<number>);
  process.stdout.write(`${JSON.stringify({ path, status, logits })}\n`);
}
// At once: the library's threads need no farewell.
process.exit(0);
