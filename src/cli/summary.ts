// Owns the start-up summary: what a person wants to know once a model is served, and what to do next.
import { styleText } from 'node:util';
import { describeLaps } from '../common/laps.ts';

export interface StartupFacts {
  readonly url: string;
  readonly modelNames: readonly string[];
  /** Label → text. */
  readonly engineSummary: Readonly<Record<string, string>>;
  readonly hasApiKeys: boolean;
  /** What starting took: part → milliseconds. */
  readonly startMs: Readonly<Record<string, number>>;
}

export function startupSummary({ url, modelNames, engineSummary, hasApiKeys, startMs }: StartupFacts): string {
  const name = modelNames[0] ?? '';
  const rows = Object.entries({ model: modelNames.join(', '), ...engineSummary });
  const width = Math.max(...rows.map(([label]) => label.length));
  const key = hasApiKeys ? ` \\\n  -H "Authorization: Bearer $XLLM_API_KEY"` : '';
  return `
${rows.map(([label, text]) => `  ${styleText('dim', label.padEnd(width))}  ${text}`).join('\n')}

  Ready in ${describeLaps(startMs)}.

  Chat in the browser, or point an OpenAI client at ${url}/v1:

  ${styleText('bold', url)}

curl ${url}/v1/chat/completions${key} \\
  -H 'Content-Type: application/json' \\
  -d '{"model": "${name}", "messages": [{"role": "user", "content": "What is the capital of France?"}]}'

  Ctrl-C stops.
`;
}
