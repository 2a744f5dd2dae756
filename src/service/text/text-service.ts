// Owns the service's view of text work: all of it runs in a worker thread, bounded in time and size.

export interface ChatMessage {
  readonly role: string;
  readonly content: string | readonly { readonly type: string; readonly text?: string }[] | null;
  readonly name?: string;
  readonly [key: string]: unknown;
}

export interface ChatTemplateInput {
  readonly messages: readonly ChatMessage[];
  readonly addGenerationPrompt: boolean;
  readonly continueFinalMessage: boolean;
  /** Extra variables of the template (`chat_template_kwargs`). */
  readonly kwargs: Readonly<Record<string, unknown>>;
  readonly tools: readonly unknown[] | null;
}

export interface EncodeOptions {
  /** Add BOS (and EOS) as the model's tokenizer does; never two BOS. */
  readonly addSpecialTokens: boolean;
  /** Whether control tokens spelled out in the text become control tokens. False for a user's raw text. */
  readonly parseSpecialTokens: boolean;
}

export interface DecodeOptions {
  /** Control tokens give no text. True unless stated. */
  readonly skipSpecialTokens?: boolean;
  /**
   * Whether the tokens begin a text: then the space that a SentencePiece tokenizer puts before its first word is
   * dropped. In the continuation of a prompt it is the space between two words. True for `decode`, false for stream
   * decoders, unless stated.
   */
  readonly atTextStart?: boolean;
}

/** Turns tokens of one choice into text as they come. Never emits half a character. */
export interface StreamDecoder {
  /** Text that became complete with this token ("" while bytes are pending). */
  push(tokenId: number): string;
  /** What is still pending at the end (an incomplete character becomes U+FFFD). */
  flush(): string;
}

/**
 * Throws XllmError: `tokenizer_missing` (every method, for a model without tokenizer files), `template_failed`,
 * `invalid_request` (text too long).
 */
export interface TextService {
  readonly hasTokenizer: boolean;
  readonly hasChatTemplate: boolean;
  encode(text: string, options: EncodeOptions): Promise<Int32Array>;
  /** Renders the chat template and encodes it: control tokens of the template count, those in user text do not. */
  encodeChat(input: ChatTemplateInput): Promise<{ readonly ids: Int32Array; readonly text: string }>;
  decode(ids: Int32Array, options?: DecodeOptions): Promise<string>;
  /** Runs on the event loop: a few microseconds a token. */
  createStreamDecoder(options?: DecodeOptions): StreamDecoder;
  /** One token as text and as bytes, for logprobs. Runs on the event loop. */
  tokenText(id: number): { readonly text: string; readonly bytes: Uint8Array };
  close(): Promise<void>;
}
