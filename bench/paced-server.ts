// Owns a server that streams empty tokens at a steady pace: the load generator's own control.
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

const msPerToken = Number(process.argv[2]);
const head = '{"id":"cmpl-0123456789abcdef","object":"text_completion","created":1700000000,"model":"control",';
const chunk = `data: ${head}"choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":null}]}\n\n`;

const server = createServer((incoming, response) => {
  let text = '';
  incoming.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  incoming.once('end', () => {
    const { max_tokens: numTokens } = JSON.parse(text) as { max_tokens: number };
    let numSent = 0;
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    const timer = setInterval(() => {
      response.write(chunk);
      if (++numSent < numTokens) return;
      clearInterval(timer);
      response.end(
        `data: ${head}"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":${numTokens}}}\n\ndata: [DONE]\n\n`,
      );
    }, msPerToken);
  });
});
server.listen(0, '127.0.0.1', () => console.log((server.address() as AddressInfo).port));
