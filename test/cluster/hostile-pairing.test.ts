// Malformed, repeated and foreign messages to an engine's hand-off stream change nothing: it serves on, and holds nothing.
import { create } from '@bufbuild/protobuf';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { bytesOfInt32 } from '../../src/contract/codec.ts';
import {
  Engine,
  HandOverSchema,
  type Paired,
  PairSchema,
  ReserveSchema,
  SamplingSchema,
  type SourceMessage,
  SourceMessageSchema,
  SubmitRequestSchema,
  type TargetMessage,
} from '../../src/contract/generated/xllm_pb.js';
import { type ClientOf, ContractClient, type DuplexHandle } from '../../src/contract/grpc.ts';
import { PROTOCOL_VERSION } from '../../src/contract/protocol.ts';
import { TcpListener } from '../../src/engine/transfer/tcp-listener.ts';
import { encodeHeader } from '../../src/engine/transfer/tcp-frames.ts';
import { eventually } from '../support/server.ts';
import { complete } from '../support/client.ts';
import { untilIdle } from './cluster.ts';
import { clusterOf, Halves, type Service, untilSchedulable } from './halves.ts';

const halves = new Halves();
const listener = new TcpListener('127.0.0.1', {});
let service: Service;
let client: ClientOf<typeof Engine>;
let identity: { model: string; numericsId: string; kvLayout: string; targetIncarnation: string };

beforeAll(async () => {
  service = await halves.service('timed');
  halves.engine('victim', service.registersAt);
  await untilSchedulable(service.url, 'victim');
  const instance = (await clusterOf(service.url)).instances[0];
  if (!instance) throw new Error('there is no instance');
  client = new ContractClient(Engine, instance.address);
  identity = {
    model: instance.model,
    numericsId: instance.numerics_id,
    kvLayout: instance.kv_layout,
    targetIncarnation: instance.incarnation,
  };
});
afterAll(async () => {
  client.close();
  listener.close();
  await halves.stopAll();
});

const heard: TargetMessage['kind'][] = [];
let hasEnded = false;
let stream: DuplexHandle<SourceMessage>;
beforeEach(() => {
  heard.length = 0;
  hasEnded = false;
  stream = client.duplex(
    'handOff',
    ({ kind }) => {
      if (kind.case !== 'beat') heard.push(kind);
    },
    () => {
      hasEnded = true;
    },
  );
});

const send = (kind: SourceMessage['kind']) => stream.write(create(SourceMessageSchema, { kind }));

async function unharmed(): Promise<void> {
  stream.cancel();
  const { tokenIds } = await complete(service.url, { prompt: [1, 2, 3], max_tokens: 3, ignore_eos: true });
  expect(tokenIds).toHaveLength(3);
  await untilIdle(service.url);
}

async function pair(more: object = {}): Promise<Paired> {
  const { port, ticket } = await listener.expect();
  const introduction = { protocol: PROTOCOL_VERSION, instance: 'stranger', incarnation: 'life-1', ...identity };
  send({ case: 'pair', value: create(PairSchema, { ...introduction, address: `127.0.0.1:${port}`, ticket, ...more }) });
  return eventually(() => (heard[0]?.case === 'paired' ? heard[0].value : null), 'it answers');
}

test('another model, kernels, layout, life or protocol is not paired with', async () => {
  for (const wrong of [
    { model: 'another' },
    { numericsId: 'another' },
    { kvLayout: 'another' },
    { targetIncarnation: 'another' },
    { protocol: 99 },
    { ticket: new Uint8Array(0) },
  ]) {
    expect((await pair(wrong)).refused, JSON.stringify(wrong)).toBe('engine_unavailable');
    heard.length = 0;
  }
  await unharmed();
});

test('messages before the pairing, and of transfers that do not exist', async () => {
  send({ case: 'handOver', value: create(HandOverSchema, { transfer: 1n }) });
  send({ case: 'reserve', value: create(ReserveSchema, { transfer: 1n }) });
  expect((await pair()).refused).toBe('');
  send({ case: 'handOver', value: create(HandOverSchema, { transfer: 7n, generatedIds: new Uint8Array(3) }) });
  const taken = await eventually(() => heard.find(({ case: of }) => of === 'taken'), 'it answers');
  expect(taken.value).toMatchObject({ refused: 'engine_unavailable' });
  await unharmed();
});

test('reservations without a record, of nobody, and with ids outside the vocabulary', async () => {
  await pair();
  const record = (more: object) =>
    create(SubmitRequestSchema, {
      requestId: 'r',
      attempt: 1,
      replica: 'nobody',
      promptIds: bytesOfInt32(Int32Array.of(1, 2, 3)),
      sampling: create(SamplingSchema, { topP: 1, repetitionPenalty: 1, numLogprobs: -1, numPromptLogprobs: -1 }),
      maxTokens: 5,
      seeds: [1n],
      generatedIds: [],
      ...more,
    });
  const requests = [undefined, record({}), record({ promptIds: new Uint8Array(5) }), record({ seeds: [1n, 2n] })];
  for (const [i, request] of requests.entries())
    send({ case: 'reserve', value: create(ReserveSchema, { transfer: BigInt(i), ...(request ? { request } : {}) }) });
  await eventually(
    () => heard.filter(({ case: of }) => of === 'reserved').length === requests.length,
    'all are answered',
  );
  for (const { case: of, value } of heard) if (of === 'reserved') expect(value.refused).not.toBe('');
  await unharmed();
});

test('blocks that nobody asked for, and bytes that are no blocks, end the pairing at most', async () => {
  const { port, ticket, socket: expected } = await listener.expect();
  await pair({ address: `127.0.0.1:${port}`, ticket });
  const socket = await expected;
  const page = new Uint8Array(10);
  socket.write(Buffer.concat([encodeHeader({ transfer: 5n, group: 3, block: 1, digest: '' }, page), page]));
  await eventually(() => hasEnded, 'the pairing ends');
  await unharmed();
});
