// Owns `xllm chat`: a conversation in the terminal, with its own server or any OpenAI-compatible one.
import { createInterface } from 'node:readline/promises';
import { XllmError } from '../common/errors.ts';
import { commandOptions, type OptionsOf } from './config/options.ts';
import { startServer } from './server.ts';

interface Message {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

interface Chunk {
  readonly choices?: readonly { readonly delta?: { readonly content?: string | null } }[];
  readonly error?: { readonly message: string };
}

export async function chat(options: OptionsOf<'chat'>, [spec]: readonly string[]): Promise<void> {
  if (options.url !== undefined) {
    await converse(options.url.replace(/\/(v1\/?)?$/, ''), options);
    return;
  }
  const server = await startServer({ ...serverDefaults, ...options }, spec);
  try {
    await converse(server.url, options);
  } finally {
    await server.close(0);
  }
}

/** The server behind a chat is nobody else's: a free port, no log lines. */
const serverDefaults = commandOptions.serve.parse({ port: 0, drainTimeoutS: 0, logLevel: 'warn' });

async function converse(url: string, options: OptionsOf<'chat'>): Promise<void> {
  const model = options.model ?? (await firstModel(url));
  const terminal = createInterface({ input: process.stdin, output: process.stdout, terminal: process.stdin.isTTY });
  const messages: Message[] = options.system === undefined ? [] : [{ role: 'system', content: options.system }];
  console.log(`${model} at ${url}. /reset forgets, /exit or Ctrl-D ends, Ctrl-C stops an answer.`);
  let isOpen = true;
  terminal.on('close', () => {
    isOpen = false;
  });
  terminal.setPrompt('> ');
  terminal.prompt();
  let answering: AbortController | null = null;
  terminal.on('SIGINT', () => {
    if (answering) answering.abort();
    else terminal.close();
  });
  for await (const line of terminal) {
    const text = line.trim();
    if (text === '/exit') break;
    if (text === '/reset') messages.splice(options.system === undefined ? 0 : 1);
    else if (text !== '') {
      messages.push({ role: 'user', content: text });
      answering = new AbortController();
      const content = await answer(url, model, messages, options, answering.signal);
      answering = null;
      messages.push({ role: 'assistant', content });
    }
    // Piped input ends while its last lines are still being answered.
    if (isOpen) terminal.prompt();
  }
  terminal.close();
}

function headers(): Record<string, string> {
  const key = process.env.XLLM_API_KEY;
  return { 'content-type': 'application/json', ...(key === undefined ? {} : { authorization: `Bearer ${key}` }) };
}

async function firstModel(url: string): Promise<string> {
  const response = await fetch(`${url}/v1/models`, { headers: headers() }).catch((error: unknown) => {
    throw new XllmError('usage', `no server answers at ${url}: start one with \`xllm serve\`, or check --url`, {
      cause: error,
    });
  });
  const reply = (await response.json()) as { data?: { id: string }[]; error?: { message: string } };
  const id = reply.data?.[0]?.id;
  if (id === undefined) throw new XllmError('usage', reply.error?.message ?? `${url} serves no model`);
  return id;
}

/** Streams one answer to standard output and returns it. An abort ends it early. */
async function answer(
  url: string,
  model: string,
  messages: readonly Message[],
  options: OptionsOf<'chat'>,
  signal: AbortSignal,
): Promise<string> {
  let content = '';
  try {
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: headers(),
      signal,
      body: JSON.stringify({
        model,
        messages,
        stream: true,
        ...(options.temperature === undefined ? {} : { temperature: options.temperature }),
        ...(options.maxTokens === undefined ? {} : { max_completion_tokens: options.maxTokens }),
      }),
    });
    if (!response.ok || !response.body) {
      const { error } = (await response.json()) as Chunk;
      console.error(error?.message ?? `the server said ${response.status}`);
      return content;
    }
    for await (const data of eventData(response.body)) {
      const chunk = JSON.parse(data) as Chunk;
      if (chunk.error) console.error(`\n${chunk.error.message}`);
      const piece = chunk.choices?.[0]?.delta?.content ?? '';
      process.stdout.write(piece);
      content += piece;
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
  process.stdout.write('\n');
  return content;
}

/** The data lines of an SSE body, without its end mark. */
async function* eventData(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let pending = '';
  for await (const bytes of body) {
    pending += decoder.decode(bytes, { stream: true });
    const lines = pending.split('\n');
    pending = lines.pop() ?? '';
    for (const line of lines) if (line.startsWith('data: ') && line !== 'data: [DONE]') yield line.slice(6);
  }
}
