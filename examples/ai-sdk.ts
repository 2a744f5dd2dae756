// Streams a chat answer with the AI SDK. Start a server first: npm start
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { streamText } from 'ai';

const provider = createOpenAICompatible({
  name: 'xllm',
  baseURL: process.env.OPENAI_BASE_URL ?? 'http://127.0.0.1:8000/v1',
});

const { textStream } = streamText({
  model: provider('smollm2-135m-instruct'),
  prompt: 'What is the capital of France?',
  temperature: 0,
});
for await (const text of textStream) process.stdout.write(text);
process.stdout.write('\n');
