// Traces across the service and its engines, as an OTLP collector on loopback gets them; off, nothing is loaded.
import { expect, test } from 'vitest';
import { metric } from '../support/client.ts';
import { type OtlpReceiver, type ReceivedSpan, startOtlpReceiver } from '../support/otlp-receiver.ts';
import { eventually, startServer, type TestServer } from '../support/server.ts';

const traceId = '4bf92f3577b34da6a3ce929d0e0e4736';
const parentId = '00f067aa0ba902b7';
const timed = ['--device', 'timed', '--time-scale', '0.3', '--log-level', 'warn'];

async function complete(server: TestServer, body: object, headers: Record<string, string> = {}): Promise<Response> {
  const response = await fetch(`${server.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify({ prompt: Array.from({ length: 600 }, (_, i) => 100 + i), ignore_eos: true, ...body }),
  });
  await response.text();
  return response;
}

const named = (spans: readonly ReceivedSpan[], name: string) => spans.filter((span) => span.name === name);

async function untilReceived(collector: OtlpReceiver, name: string, count: number): Promise<void> {
  await eventually(() => named(collector.spans, name).length >= count, `${count} spans ${name} have come`);
}

test('every stage of a request is a span of the trace that the client began', async () => {
  await using collector = await startOtlpReceiver();
  const server = await startServer([...timed, '--instances', '2', '--otlp-endpoint', `${collector.url}/`]);
  try {
    const headers = { traceparent: `00-${traceId}-${parentId}-01`, 'x-request-id': 'traced' };
    const response = await complete(server, { max_tokens: 5, n: 2 }, headers);
    expect(response.status).toBe(200);
    await untilReceived(collector, 'request', 1);
    await untilReceived(collector, 'decode', 2);
    const spans = [...collector.spans];
    expect(new Set(spans.map((span) => span.traceId))).toEqual(new Set([traceId]));
    const [request] = named(spans, 'request');
    const [tokenize] = named(spans, 'tokenize');
    const [route] = named(spans, 'route');
    if (!request || !tokenize || !route) throw new Error(`missing among ${spans.map(({ name }) => name).join()}`);
    expect([request.service, request.parentSpanId]).toEqual(['xllm-service', parentId]);
    expect(request.attributes).toMatchObject({
      'http.route': '/v1/completions',
      'http.response.status_code': 200,
      'xllm.request_id': 'traced',
      'gen_ai.usage.input_tokens': 600,
      'gen_ai.usage.output_tokens': 10,
    });
    expect([tokenize.parentSpanId, route.parentSpanId]).toEqual([request.spanId, request.spanId]);
    expect(route.attributes['xllm.instance']).toMatch(/^engine-[01]$/);
    // Of each choice, on the engine, below the try that sent it there.
    for (const stage of ['queue', 'prefill', 'decode'] as const) {
      const found = named(spans, stage);
      expect(found.map(({ service, parentSpanId }) => [service, parentSpanId])).toEqual(
        Array.from({ length: 2 }, () => ['xllm-engine', route.spanId]),
      );
      expect(found.map(({ attributes }) => Number(attributes['xllm.choice'])).sort((a, b) => a - b)).toEqual([0, 1]);
    }
    // In order, each a part of the request: the clocks of one host agree to a millisecond.
    const slackNs = 2_000_000n;
    for (const choice of [0, 1]) {
      const ofChoice = (stage: string) => {
        const span = named(spans, stage).find(({ attributes }) => attributes['xllm.choice'] === choice);
        if (!span) throw new Error(`choice ${choice} has no span ${stage}`);
        return span;
      };
      const [queue, prefill, decode] = [ofChoice('queue'), ofChoice('prefill'), ofChoice('decode')];
      expect(request.startNs <= queue.startNs + slackNs).toBe(true);
      expect([queue.endNs, prefill.endNs]).toEqual([prefill.startNs, decode.startNs]);
      expect(decode.endNs > decode.startNs && decode.endNs <= request.endNs + slackNs).toBe(true);
      expect(decode.attributes).toMatchObject({ 'xllm.finish': 'length', 'xllm.num_tokens': 5 });
    }
    // A trace that nobody keeps is not sent, one without a parent begins anew, and a failure says so.
    await complete(server, { max_tokens: 2 }, { traceparent: `00-${'1'.repeat(32)}-${parentId}-00` });
    expect((await complete(server, { max_tokens: 1_000_000 })).status).toBe(400);
    await complete(server, { max_tokens: 2 }, { traceparent: 'nonsense' });
    await untilReceived(collector, 'request', 3);
    expect(collector.spans.some((span) => span.traceId === '1'.repeat(32))).toBe(false);
    const [, refused, fresh] = named(collector.spans, 'request');
    expect([refused?.isError, refused?.parentSpanId]).toEqual([true, '']);
    expect([fresh?.isError, fresh?.parentSpanId]).toEqual([false, '']);
    // The stages that the service times itself.
    for (const stage of ['tokenize', 'route', 'first_decode'])
      expect(await metric(server.url, `xllm:request_${stage}_time_seconds_count`), stage).toBeGreaterThan(0);
  } finally {
    await server.stop();
  }
}, 120_000);

test('the standard variable turns traces on; a collector that fails is told once and hurts nobody', async () => {
  await using collector = await startOtlpReceiver();
  collector.status = 400;
  const server = await startServer(timed, { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url });
  try {
    for (let i = 0; i < 2; i++) {
      expect((await complete(server, { max_tokens: 2 })).status).toBe(200);
      await eventually(() => /traces cannot be sent/.test(server.output()), 'the failure is logged');
    }
    collector.status = 200;
    await eventually(async () => {
      await complete(server, { max_tokens: 1 });
      return named(collector.spans, 'decode').length > 0;
    }, 'spans arrive once the collector takes them');
    await server.stop();
    expect(await server.exited).toBe(0);
    // Service and engine say it each for itself.
    expect(server.output().match(/traces cannot be sent/g)?.length).toBeLessThanOrEqual(2);
  } finally {
    await server.stop();
  }
}, 120_000);

/** Prints what of the SDK a process resolves, in every process that inherits the environment. */
const watcher = `import { registerHooks } from 'node:module';
registerHooks({ resolve(specifier, context, next) {
  if (specifier.startsWith('@opentelemetry/sdk')) console.error('SDK opened by ' + process.argv[2]);
  return next(specifier, context);
} });`;

test.each([
  ['off by default: not a module of the SDK is opened', {}, []],
  ['on: it is opened by both', { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:1' }, ['engine', 'serve']],
])(
  '%s',
  async (_, environment, expected) => {
    const options = `--import "data:text/javascript,${encodeURIComponent(watcher)}"`;
    const server = await startServer(timed, { ...environment, NODE_OPTIONS: options });
    try {
      expect((await complete(server, { max_tokens: 2 })).status).toBe(200);
      const openers = new Set([...server.output().matchAll(/SDK opened by (\w+)/g)].map(([, name]) => name));
      expect(openers).toEqual(new Set(expected));
    } finally {
      await server.stop();
    }
  },
  120_000,
);
