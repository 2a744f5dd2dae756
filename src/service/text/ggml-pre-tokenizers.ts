// Owns the pre-tokenizers that GGUF files name in `tokenizer.ggml.pre`: their patterns and what else a name implies.
import { XllmError } from '../../common/errors.ts';
import { gpt2Pattern, splitStage } from './pre-tokenizer.ts';
import type { StageSpec } from './tokenizer-spec.ts';

/**
 * Patterns are applied one after the other, each to the pieces of the one before. Source: llama.cpp,
 * src/llama-vocab.cpp; where it notes the pattern of the model's own tokenizer.json, that one stands here.
 */
const r = String.raw;
const contraction = r`(?i:'s|'t|'re|'ve|'m|'ll|'d)`;
const newlinesAndSpaces = r`\s*[\r\n]+|\s+(?!\S)|\s+`;
const digits3 = r`\p{N}{1,3}`;
const word = r`[^\r\n\p{L}\p{N}]?\p{L}+`;
const symbols = r` ?[^\s\p{L}\p{N}]+[\r\n]*`;
const upper = r`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
const lower = r`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
const casedWord = (suffix: string) =>
  r`[^\r\n\p{L}\p{N}]?${upper}*${lower}+${suffix}|[^\r\n\p{L}\p{N}]?${upper}+${lower}*${suffix}`;
const symbolsWithSlash = r` ?[^\s\p{L}\p{N}]+[\r\n/]*`;
const punctuationWord = r`[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_\x60{|}~][A-Za-z]+`;
const han = r`[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+`;
const hanAndKana = r`[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+`;
const fullWidthPunctuation = r`\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+`;
const bloomWord = r` ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+`;
/** Letters with case, as escapes: some of them change under normalisation. */
const deepseekLetters = [
  r`A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373`,
  r`\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481`,
  r`\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b`,
  r`\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b`,
  r`\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb`,
  r`\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128`,
  r`\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4`,
  r`\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf`,
  r`\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\u{10400}-\u{1044f}\u{104b0}-\u{104d3}`,
  r`\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}`,
].join('');

const patterns = {
  default: [r`[\p{P}$+<=>^~|]+`, gpt2Pattern, r`\p{N}+`, r`[0-9][0-9][0-9]`],
  gpt2: [gpt2Pattern],
  gpt2Digits: [r`\p{N}`, gpt2Pattern],
  llama3: [[contraction, word, digits3, symbols, newlinesAndSpaces].join('|')],
  qwen2: [[contraction, word, r`\p{N}`, symbols, newlinesAndSpaces].join('|')],
  qwen35: [
    [
      contraction,
      r`[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+`,
      r`\p{N}`,
      r` ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*`,
      newlinesAndSpaces,
    ].join('|'),
  ],
  deepseekLlm: [r`[\r\n]`, r`\s?[${deepseekLetters}]+`, fullWidthPunctuation, r`\s+$`, han, r`\p{N}+`],
  deepseekCoder: [r`[\r\n]`, r`\s?\p{L}+`, r`\s?\p{P}+`, han, r`\p{N}`],
  deepseekV3: [
    digits3,
    hanAndKana,
    [punctuationWord, r`[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+`, r` ?[\p{P}\p{S}]+[\r\n]*`, newlinesAndSpaces].join('|'),
  ],
  falcon: [r`[\p{P}$+<=>^~|\x60]+`, gpt2Pattern, r`[0-9][0-9][0-9]`],
  bloom: [bloomWord],
  bloomDigits: [bloomWord, r`\p{N}`],
  tekken: [[casedWord(''), r`\p{N}`, symbolsWithSlash, newlinesAndSpaces].join('|')],
  gpt4o: [[casedWord(`${contraction}?`), digits3, symbolsWithSlash, newlinesAndSpaces].join('|')],
  bailing: [[r`'(?i:[sdmt]|ll|ve|re)`, word, r`\p{N}`, symbols, r`\s*[\r\n]`, r`\s+(?!\S)`, r`\s+`].join('|')],
  seedCoder: [[contraction, word, r`\p{N}`, r` ?[^\s\p{L}\p{N}\r\n]+`, newlinesAndSpaces].join('|')],
} satisfies Record<string, readonly string[]>;

interface PreTokenizerRow {
  readonly patterns: readonly string[];
  readonly ignoreMerges?: true;
  /** What holds where the file does not say `tokenizer.ggml.add_bos_token`. */
  readonly addBos?: true;
}

const llama3Row: PreTokenizerRow = { patterns: patterns.llama3, ignoreMerges: true, addBos: true };
const named = (row: PreTokenizerRow, ...names: string[]) => names.map((name) => [name, row] as const);

const rows: ReadonlyMap<string, PreTokenizerRow> = new Map([
  ...named({ patterns: patterns.default }, 'default'),
  ...named(llama3Row, 'llama3', 'llama-v3', 'llama-bpe', 'falcon3', 'falcon-h1', 'pixtral', 'midm-2.0', 'lfm2'),
  ...named({ patterns: patterns.llama3 }, 'dbrx', 'smaug-bpe', 'chatglm-bpe'),
  ...named({ patterns: patterns.llama3, ignoreMerges: true }, 'glm4', 'glm5'),
  ...named({ patterns: patterns.qwen2 }, 'qwen2', 'deepseek-r1-qwen', 'kormo', 'megrez', 'stablelm2'),
  ...named({ patterns: patterns.qwen2 }, 'hunyuan', 'solar-open', 'grok-2'),
  ...named({ patterns: patterns.qwen35 }, 'qwen35'),
  ...named(
    { patterns: patterns.gpt2 },
    'gpt-2',
    'phi-2',
    'gigachat',
    'a.x-4.0',
    'mellum',
    'modern-bert',
    'mpt',
    'olmo',
  ),
  ...named({ patterns: patterns.gpt2 }, 'jais', 'trillion', 'granite-docling', 'exaone4'),
  ...named({ patterns: patterns.gpt2 }, 'jina-es', 'jina-de', 'jina-v1-en', 'jina-v2-es', 'jina-v2-de', 'jina-v2-code'),
  ...named({ patterns: patterns.gpt2Digits }, 'smollm', 'starcoder', 'refact', 'command-r', 'codeshell', 'exaone'),
  ...named({ patterns: patterns.gpt2Digits }, 'minerva-7b', 'mellum2'),
  ...named({ patterns: patterns.deepseekLlm }, 'deepseek-llm'),
  ...named({ patterns: patterns.deepseekCoder }, 'deepseek-coder'),
  ...named({ patterns: patterns.deepseekV3 }, 'deepseek-v3', 'hunyuan-dense', 'joyai-llm'),
  ...named({ patterns: patterns.falcon }, 'falcon'),
  ...named({ patterns: patterns.bloom }, 'bloom', 'poro-chat', 'gpt3-finnish'),
  ...named({ patterns: patterns.bloomDigits }, 'viking'),
  ...named({ patterns: patterns.tekken, ignoreMerges: true, addBos: true }, 'tekken'),
  ...named({ patterns: patterns.gpt4o }, 'gpt-4o', 'llama4', 'kanana2', 'minimax-m2'),
  ...named({ patterns: patterns.bailing }, 'bailingmoe', 'bailingmoe2', 'llada-moe'),
  ...named({ patterns: patterns.seedCoder }, 'seed-coder'),
]);

/** Every name that `ggmlPreTokenizer` takes. */
export const ggmlPreTokenizerNames: readonly string[] = [...rows.keys()];

export interface GgmlPreTokenizer {
  readonly stage: StageSpec;
  readonly ignoreMerges: boolean;
  readonly addBos: boolean;
}

/** Throws XllmError model_unsupported for a name that is not known. */
export function ggmlPreTokenizer(name: string): GgmlPreTokenizer {
  const row = rows.get(name);
  if (row === undefined) {
    throw new XllmError(
      'model_unsupported',
      `the file names the pre-tokenizer ${JSON.stringify(name)}; known are ${ggmlPreTokenizerNames.join(', ')}`,
    );
  }
  return {
    stage: { type: 'Sequence', pretokenizers: row.patterns.map((pattern) => splitStage(pattern)) },
    ignoreMerges: row.ignoreMerges === true,
    addBos: row.addBos === true,
  };
}
