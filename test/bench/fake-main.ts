// A system to compare, as a process: answers prompts after a delay per token; `--wrong` continues them wrongly.
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';
import { echoScript } from './fake-server.ts';

const { values } = parseArgs({
  options: {
    port: { type: 'string' },
    'ms-per-token': { type: 'string' },
    wrong: { type: 'boolean' },
    fail: { type: 'boolean' },
  },
});
if (values.fail) throw new Error('no such model');

createServer((incoming, response) => {
  let text = '';
  incoming.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  incoming.once('end', () => {
    if (incoming.url === '/ready') return response.end('{}');
    if (incoming.url === '/v1/models') return response.end('{"data":[{"id":"fake"}]}');
    const body = JSON.parse(text) as { prompt: number[]; max_tokens: number; stream?: boolean };
    if (!body.stream) {
      const ids = Array.from({ length: body.max_tokens }, (_, i) => (body.prompt[0] ?? 0) + i + (values.wrong ? 1 : 0));
      return response.end(JSON.stringify({ tokens: ids }));
    }
    const delayMs = Number(values['ms-per-token']) * body.max_tokens;
    const request = { path: '', body, socketId: 0, headers: incoming.headers };
    return setTimeout(() => void echoScript(request, response), delayMs);
  });
}).listen(Number(values.port), '127.0.0.1');
