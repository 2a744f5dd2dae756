// Owns the cost of the load generator itself: CPU per streamed token, against a server that computes nothing.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { systemClock } from '../src/cli/bench/clock.ts';
import { runLoad } from '../src/cli/bench/load.ts';
import { summarise } from '../src/cli/bench/metrics.ts';
import { StreamClient } from '../src/cli/bench/stream-client.ts';

const numStreams = 16;
const numRequests = 64;
const numTokens = 500;
/** A token every 10 ms per stream: each event is a network read of its own, as with a real model. */
const msPerToken = 10;

// In a process of its own, so that its CPU time is not ours.
const server = spawn(process.execPath, [fileURLToPath(import.meta.resolve('./paced-server.ts')), String(msPerToken)], {
  stdio: ['ignore', 'pipe', 'inherit'],
});
const [port] = (await once(server.stdout, 'data')) as [Buffer];
const target = {
  url: new URL(`http://127.0.0.1:${String(port).trim()}/`),
  headers: {},
  isKeepAlive: true,
  timeoutMs: 60_000,
};
const client = new StreamClient(target, systemClock);
const { signal } = new AbortController();

const body = (numTokens: number): string => JSON.stringify({ max_tokens: numTokens });
const load = (numRequests: number, text: string) =>
  runLoad(
    { numRequests, arrivalMs: new Float64Array(numRequests), maxConcurrency: numStreams },
    (_, queueMs) => client.send(text, 1, queueMs, signal),
    systemClock,
    signal,
  );

await load(numStreams, body(200)); // compiles what is hot
const before = process.cpuUsage();
const { records, durationMs } = await load(numRequests, body(numTokens));
const { user, system } = process.cpuUsage(before);
client.close();
server.kill();
const { completed, outputTokens, outputTokensPerS } = summarise(records, durationMs);
console.log(
  `${completed} requests, ${outputTokens} tokens at ${outputTokensPerS.toFixed(0)} tok/s: ` +
    `${((user + system) / outputTokens).toFixed(1)} us of CPU per token, ${((user + system) / durationMs / 10).toFixed(1)} % of a core`,
);
