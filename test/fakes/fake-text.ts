// Owns a text service for tests: one token per byte, four control tokens, a template in three lines.
import type {
  ChatTemplateInput,
  EncodeOptions,
  StreamDecoder,
  TextService,
} from '../../src/service/text/text-service.ts';
import { XllmError } from '../../src/common/errors.ts';

export const fakeTokens = { bos: 256, eos: 257, turnStart: 258, turnEnd: 259 } as const;
export const FAKE_VOCAB_SIZE = 320;

const CONTROL: Readonly<Record<number, string>> = {
  [fakeTokens.bos]: '<s>',
  [fakeTokens.eos]: '</s>',
  [fakeTokens.turnStart]: '<|turn|>',
  [fakeTokens.turnEnd]: '<|end|>',
};
const UNUSED = '<unused>';

export interface FakeTextOptions {
  readonly hasTokenizer?: boolean;
  readonly hasChatTemplate?: boolean;
}

export class FakeText implements TextService {
  readonly hasTokenizer: boolean;
  readonly hasChatTemplate: boolean;
  /** What the template was last given. */
  lastChat: ChatTemplateInput | null = null;

  constructor({ hasTokenizer = true, hasChatTemplate = true }: FakeTextOptions = {}) {
    this.hasTokenizer = hasTokenizer;
    this.hasChatTemplate = hasChatTemplate;
  }

  async encode(text: string, { addSpecialTokens, parseSpecialTokens }: EncodeOptions): Promise<Int32Array> {
    this.#needTokenizer();
    const ids: number[] = addSpecialTokens ? [fakeTokens.bos] : [];
    const parts = parseSpecialTokens ? text.split(/(<s>|<\/s>|<\|turn\|>|<\|end\|>)/) : [text];
    for (const part of parts) {
      const control = parseSpecialTokens ? Object.entries(CONTROL).find(([, name]) => name === part) : undefined;
      if (control) ids.push(Number(control[0]));
      else ids.push(...Buffer.from(part, 'utf8'));
    }
    return Int32Array.from(ids);
  }

  async encodeChat(input: ChatTemplateInput): Promise<{ readonly ids: Int32Array; readonly text: string }> {
    this.#needTokenizer();
    this.lastChat = input;
    if (input.kwargs.fail === true) throw new XllmError('template_failed', 'The template says: no.');
    const ids: number[] = [];
    input.messages.forEach(({ role, content }, index) => {
      ids.push(
        fakeTokens.turnStart,
        ...Buffer.from(`${role}:${typeof content === 'string' ? content : JSON.stringify(content)}`),
      );
      if (!input.continueFinalMessage || index < input.messages.length - 1) ids.push(fakeTokens.turnEnd);
    });
    if (input.addGenerationPrompt) ids.push(fakeTokens.turnStart, ...Buffer.from('assistant:'));
    return { ids: Int32Array.from(ids), text: await this.decode(Int32Array.from(ids)) };
  }

  async decode(ids: Int32Array, options?: { readonly skipSpecialTokens?: boolean }): Promise<string> {
    const decoder = this.createStreamDecoder(options);
    let text = '';
    for (const id of ids) text += decoder.push(id);
    return text + decoder.flush();
  }

  createStreamDecoder({ skipSpecialTokens = false }: { readonly skipSpecialTokens?: boolean } = {}): StreamDecoder {
    this.#needTokenizer();
    const utf8 = new TextDecoder('utf-8');
    return {
      push: (id) => {
        if (id < 256) return utf8.decode(Uint8Array.of(id), { stream: true });
        return utf8.decode(new Uint8Array(0)) + (skipSpecialTokens ? '' : (CONTROL[id] ?? UNUSED));
      },
      flush: () => utf8.decode(new Uint8Array(0)),
    };
  }

  tokenText(id: number): { readonly text: string; readonly bytes: Uint8Array } {
    this.#needTokenizer();
    const bytes = id < 256 ? Uint8Array.of(id) : Buffer.from(CONTROL[id] ?? UNUSED);
    return { text: new TextDecoder().decode(bytes), bytes };
  }

  async close(): Promise<void> {}

  #needTokenizer(): void {
    if (!this.hasTokenizer) throw new XllmError('tokenizer_missing', 'The model has no tokenizer files.');
  }
}
