// Owns the known request fields that this server cannot honour, and the values of them that ask for nothing.

/** Whether this value asks for nothing, so that the field may stand. null and absent always may. */
type Harmless = (value: unknown) => boolean;

export type UnsupportedFields = Readonly<Record<string, Harmless>>;

const never: Harmless = () => false;
const always: Harmless = () => true;
const only =
  (...values: readonly unknown[]): Harmless =>
  (value) =>
    values.includes(value);
const empty: Harmless = (value) => Array.isArray(value) && value.length === 0;

/** Fields of OpenAI's and vLLM's APIs, for both kinds of completion. */
const both: UnsupportedFields = {
  response_format: (value) =>
    typeof value === 'object' && value !== null && (value as { type?: unknown }).type === 'text',
  guided_json: never,
  guided_regex: never,
  guided_choice: never,
  guided_grammar: never,
  guided_decoding_backend: never,
  guided_whitespace_pattern: never,
  structured_outputs: never,
  use_beam_search: only(false),
  allowed_token_ids: empty,
  bad_words: empty,
  prompt_logprobs: never,
  logprob_token_ids: never,
  truncate_prompt_tokens: never,
  truncation_side: never,
  spaces_between_special_tokens: only(true),
  thinking_token_budget: only(-1),
  repetition_detection: never,
  stream_interval: only(1),
  logits_processors: empty,
  kv_transfer_params: never,
  vllm_xargs: never,
  // Hints and tags: there is nothing to honour, so nothing is dropped.
  user: always,
  metadata: always,
  safety_identifier: always,
  prompt_cache_key: always,
  length_penalty: always,
};

export const unsupportedInCompletions: UnsupportedFields = {
  ...both,
  suffix: only(''),
  prompt_embeds: empty,
};

export const unsupportedInChat: UnsupportedFields = {
  ...both,
  tools: empty,
  tool_choice: only('none'),
  // Says how tools are called; without tools it says nothing.
  parallel_tool_calls: always,
  functions: empty,
  function_call: only('none'),
  modalities: (value) => Array.isArray(value) && value.every((modality) => modality === 'text'),
  audio: never,
  prediction: never,
  web_search_options: never,
  store: only(false),
  service_tier: only('auto', 'default'),
  verbosity: only('medium'),
  include_reasoning: only(true),
  documents: empty,
  chat_template: never,
  echo: only(false),
  add_special_tokens: only(false),
  media_io_kwargs: never,
  mm_processor_kwargs: never,
  best_of: only(1),
};

/** Name of the first field whose value asks for something that cannot be done, or null. */
export function unsupportedField(body: Readonly<Record<string, unknown>>, fields: UnsupportedFields): string | null {
  for (const name of Object.keys(body)) {
    const harmless = Object.hasOwn(fields, name) ? fields[name] : undefined;
    const value = body[name];
    if (harmless && value !== null && value !== undefined && !harmless(value)) return name;
  }
  return null;
}
