// The engine's face over a real socket: replayed, malformed, misdirected and unauthenticated calls change nothing.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { monotonicClock } from '../../common/clock.ts';
import { bytesOfInt32 } from '../../contract/codec.ts';
import {
  ControlRequest_Action,
  ControlRequestSchema,
  DrainRequestSchema,
  Engine,
  type Heartbeat,
  HeartbeatsRequestSchema,
  HelloReplySchema,
  HelloRequestSchema,
  SamplingSchema,
  StatusReplySchema,
  StatusRequestSchema,
  type StepBatch,
  StepsRequestSchema,
  SubmitRequestSchema,
} from '../../contract/generated/xllm_pb.js';
import {
  type ClientOf,
  ContractClient,
  type ContractSecurity,
  ContractServer,
  type StreamHandle,
} from '../../contract/grpc.ts';
import type { SequenceSpec, SequenceUpdate } from '../scheduler/spec.ts';
import { makeCertificates } from '../../../test/support/certificates.ts';
import { EngineServer, type HostedScheduler } from './engine-server.ts';

const DEADLINE_MS = 60_000;

/** Takes everything, computes nothing, and writes down what it was asked. */
class WrittenScheduler implements HostedScheduler {
  readonly log: string[] = [];
  readonly specs = new Map<number, SequenceSpec>();

  add(spec: SequenceSpec): null {
    this.specs.set(spec.id, spec);
    this.log.push(`add ${spec.id}`);
    return null;
  }
  abort(id: number): SequenceUpdate | null {
    this.log.push(`abort ${id}`);
    return this.specs.delete(id) ? end(id) : null;
  }
  expire(): readonly SequenceUpdate[] {
    return [];
  }
  adopt(): null {
    return null;
  }
  pause(id: number): void {
    this.log.push(`pause ${id}`);
  }
  resume(id: number): void {
    this.log.push(`resume ${id}`);
  }
}

function end(id: number): SequenceUpdate {
  const timing = { numCachedTokens: 0, queueMs: 1, prefillMs: 2, numPreemptions: 0 };
  const tokenIds = Int32Array.of(5);
  return {
    id,
    tokenIds,
    numBefore: 0,
    logprobs: [],
    promptLogprobs: [],
    finish: 'length',
    stopTokenId: -1,
    error: null,
    timing,
  };
}

let folder: string;
let scheduler: WrittenScheduler;
let engine: EngineServer;
let server: ContractServer;
let client: ClientOf<typeof Engine>;
const batches: StepBatch[] = [];
let numLeft = 0;

async function serve(security: ContractSecurity, address = `unix:${folder}/e.sock`): Promise<string> {
  server = new ContractServer(security);
  engine.serve(server);
  return server.listen(address);
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'xllm-test-engine-'));
  scheduler = new WrittenScheduler();
  batches.length = 0;
  numLeft = 0;
  engine = new EngineServer({
    incarnation: 'life-1',
    model: 'm',
    scheduler,
    transfers: { begin: () => {}, keep: () => {}, ended: () => {}, accept: () => {} },
    limits: { vocabSize: 100, maxModelLen: 64 },
    clock: monotonicClock,
    tracer: null,
    wake: () => {},
    leave: () => numLeft++,
    hello: () => create(HelloReplySchema, { incarnation: 'life-1' }),
    status: () => create(StatusReplySchema, { numRunning: scheduler.specs.size }),
    kvEvents: () => () => {},
  });
});

afterEach(() => {
  client.close();
  server.close();
  rmSync(folder, { recursive: true });
});

/** Connected as replica `r`, with its steps followed. */
async function connect(): Promise<StreamHandle> {
  client = new ContractClient(Engine, await serve({}));
  const steps = client.stream(
    'steps',
    create(StepsRequestSchema, { replica: 'r' }),
    (batch) => batches.push(batch),
    () => {},
  );
  await vi.waitFor(async () => expect((await submit({ requestId: 'probe' })).refused).toBe(''), DEADLINE_MS);
  await control({ requestId: 'probe', action: ControlRequest_Action.ABORT });
  await vi.waitFor(() => expect(scheduler.specs.size).toBe(0), DEADLINE_MS);
  scheduler.log.length = 0;
  return steps;
}

const submit = (more: MessageInitShape<typeof SubmitRequestSchema>) =>
  client.call(
    'submit',
    create(SubmitRequestSchema, {
      requestId: 'q',
      attempt: 1,
      replica: 'r',
      model: 'm',
      promptIds: bytesOfInt32(Int32Array.of(1, 2)),
      sampling: create(SamplingSchema, { topP: 1, repetitionPenalty: 1, numLogprobs: -1, numPromptLogprobs: -1 }),
      maxTokens: 4,
      seeds: [1n],
      incarnation: 'life-1',
      ...more,
    }),
    DEADLINE_MS,
  );
const control = (more: MessageInitShape<typeof ControlRequestSchema>) =>
  client.call(
    'control',
    create(ControlRequestSchema, { requestId: 'q', attempt: 1, replica: 'r', incarnation: 'life-1', ...more }),
    DEADLINE_MS,
  );

describe('calls that change nothing', () => {
  test.each([
    [{ incarnation: 'life-0' }, 'engine_unavailable'],
    [{ model: 'other' }, 'model_not_found'],
    [{ replica: 'unheard-of' }, 'engine_unavailable'],
    [{ promptIds: new Uint8Array(3) }, 'invalid_request'],
    [{ promptIds: bytesOfInt32(Int32Array.of(1, 1_000_000)) }, 'invalid_request'],
    [{ promptIds: bytesOfInt32(Int32Array.of(-1)) }, 'invalid_request'],
    [{ promptIds: new Uint8Array(0) }, 'invalid_request'],
    [{ seeds: [] }, 'invalid_request'],
    [{ maxTokens: 0 }, 'invalid_request'],
    [{ generatedIds: [new Uint8Array(5)] }, 'invalid_request'],
    [{ sampling: create(SamplingSchema, { temperature: Number.NaN }) }, 'invalid_request'],
  ])('a submission with %j is refused with %s', async (more, code) => {
    await connect();
    expect((await submit(more)).refused).toBe(code);
    expect(scheduler.log).toEqual([]);
  });

  test('a submission that arrives twice is computed once, also after it has ended', async () => {
    await connect();
    expect((await submit({})).refused).toBe('');
    expect((await submit({})).refused).toBe('invalid_request');
    const [id = -1] = scheduler.specs.keys();
    engine.publish(1, [end(id)]);
    expect((await submit({})).refused).toBe('invalid_request');
    expect(scheduler.log).toEqual([`add ${id}`]);
    // The next attempt is another matter, and so is another replica's request of the same name.
    expect((await submit({ attempt: 2 })).refused).toBe('');
  });

  test('control of another life, another attempt, another replica, an unknown request or choice', async () => {
    await connect();
    await submit({});
    const before = scheduler.log.length;
    const action = ControlRequest_Action.ABORT;
    await control({ action, incarnation: 'life-0' });
    await control({ action, attempt: 2 });
    await control({ action, replica: 'other' });
    await control({ action, requestId: 'unknown' });
    await control({ action, choices: [7] });
    await control({ action: ControlRequest_Action.ACTION_UNSPECIFIED });
    expect(scheduler.log).toHaveLength(before);
    await control({ action });
    expect(scheduler.log).toHaveLength(before + 1);
  });

  test('streams and drains that mean another life', async () => {
    await connect();
    await submit({});
    const life = { replica: 'r', incarnation: 'life-0' };
    const ended = Promise.withResolvers<void>();
    client.stream(
      'steps',
      create(StepsRequestSchema, life),
      () => {},
      () => ended.resolve(),
    );
    await ended.promise;
    await client.call('drain', create(DrainRequestSchema, { deadlineMs: 1, incarnation: 'life-0' }), DEADLINE_MS);
    // The replica's own stream goes on, and requests are taken.
    const [id = -1] = scheduler.specs.keys();
    engine.publish(2, [end(id)]);
    await vi.waitFor(() => expect(batches.at(-1)?.stepId).toBe(2n), DEADLINE_MS);
    expect((await submit({ requestId: 'next' })).refused).toBe('');
  });

  test('bytes that are no message', async () => {
    await connect();
    const address = `unix:${folder}/e.sock`;
    const raw = new grpc.Client(address, grpc.credentials.createInsecure());
    onTestFinished(() => raw.close());
    const send = (method: string, bytes: Buffer) =>
      new Promise<number | undefined>((resolve) => {
        raw.makeUnaryRequest(
          `/xllm.v1.Engine/${method}`,
          (value: Buffer) => value,
          (value) => value,
          bytes,
          (error) => resolve(error?.code),
        );
      });
    for (const bytes of [[0x0a, 0xff, 0xff, 0x01], [0xff, 0xff], [0x08], [0x0a, 5, 65]]) {
      for (const method of ['Submit', 'Control'])
        expect(await send(method, Buffer.from(bytes))).toBe(grpc.status.INTERNAL);
      // The decoder takes the first of these for a deadline.
      await send('Drain', Buffer.from(bytes));
    }
    expect(await send('NoSuchMethod', Buffer.alloc(0))).toBe(grpc.status.UNIMPLEMENTED);
    expect(scheduler.log).toEqual([]);
    expect((await submit({})).refused).toBe('');
  });
});

test('what a vanished replica asked for ends, and no drain waits for it', async () => {
  const steps = await connect();
  await submit({ seeds: [1n, 2n] });
  expect(engine.numRequests).toBe(1);
  steps.cancel();
  await vi.waitFor(() => expect(engine.numRequests).toBe(0), DEADLINE_MS);
  expect(scheduler.specs.size).toBe(0);
  await engine.drain(DEADLINE_MS);
});

test('told to leave, it takes nothing more, and leaves once nothing runs; told twice it is the same', async () => {
  await connect();
  await submit({});
  const drain = (incarnation: string) =>
    client.call('drain', create(DrainRequestSchema, { incarnation, leave: true }), DEADLINE_MS);
  await drain('life-0');
  expect(engine.isDraining).toBe(false);
  expect((await drain('life-1')).numRemaining).toBe(1);
  expect((await drain('life-1')).numRemaining).toBe(1);
  expect((await submit({ requestId: 'late' })).refused).toBe('engine_unavailable');
  expect(numLeft).toBe(0);
  const [id = -1] = scheduler.specs.keys();
  engine.publish(1, [end(id)]);
  await vi.waitFor(() => expect(numLeft).toBeGreaterThan(0), DEADLINE_MS);
});

test('heartbeats say which life they are of and what they know of', async () => {
  await connect();
  const beats: Heartbeat[] = [];
  const stream = client.stream(
    'heartbeats',
    create(HeartbeatsRequestSchema, { replica: 'r', incarnation: 'life-1' }),
    (beat) => beats.push(beat),
    () => {},
  );
  await vi.waitFor(() => expect(beats.length).toBeGreaterThan(0), DEADLINE_MS);
  const first = beats[0]?.numSubmits ?? 0n;
  await submit({});
  await submit({ incarnation: 'life-0' });
  await vi.waitFor(() => expect(beats.at(-1)).toMatchObject({ numSubmits: first + 2n }), DEADLINE_MS);
  expect(beats.at(-1)).toMatchObject({ incarnation: 'life-1', status: { numRunning: 1 } });
  const [id = -1] = scheduler.specs.keys();
  engine.publish(1, [end(id)]);
  await vi.waitFor(() => expect(beats.some(({ maxTtftMs }) => maxTtftMs === 3)).toBe(true), DEADLINE_MS);
  stream.cancel();
});

describe('who may call', () => {
  const status = () => client.call('status', create(StatusRequestSchema), DEADLINE_MS);

  test('with a token, only who has it: calls and streams alike', async () => {
    const address = await serve({ token: 'secret' });
    for (const token of [undefined, '', 'secre', 'secret2', 'SECRET']) {
      client = new ContractClient(Engine, address, { token });
      await expect(status()).rejects.toMatchObject({ code: grpc.status.UNAUTHENTICATED });
      const failed = Promise.withResolvers<Error | null>();
      client.stream('steps', create(StepsRequestSchema, { replica: 'r' }), () => {}, failed.resolve);
      expect(await failed.promise).toMatchObject({ code: grpc.status.UNAUTHENTICATED });
      client.close();
    }
    client = new ContractClient(Engine, address, { token: 'secret' });
    expect(await status()).toMatchObject({ numRunning: 0 });
  });

  test('with TLS, only who knows the authority, and nobody in the clear', async () => {
    const [own, other] = [makeCertificates(), makeCertificates()];
    onTestFinished(own.remove);
    onTestFinished(other.remove);
    const pem = { cert: readFileSync(own.cert), key: readFileSync(own.key) };
    const address = await serve(pem, 'localhost:0');
    for (const ca of [undefined, readFileSync(other.ca)]) {
      client = new ContractClient(Engine, address, { ca });
      await expect(client.call('hello', create(HelloRequestSchema), 2_000)).rejects.toMatchObject({
        code: grpc.status.UNAVAILABLE,
      });
      client.close();
    }
    client = new ContractClient(Engine, address, { ca: readFileSync(own.ca) });
    expect(await status()).toMatchObject({ numRunning: 0 });
  });
});
