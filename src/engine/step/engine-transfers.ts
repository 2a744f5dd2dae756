// Owns an engine's share in moving sequences: what leaves, what comes, and their turns around each step.
import { setTimeout as sleep } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import {
  type HandOffStatus,
  HandOffStatusSchema,
  type HandOffTarget,
  PairSchema,
  PoolFileSchema,
  type SourceMessage,
  type SubmitRequest,
  type TargetMessage,
} from '../../contract/generated/xllm_pb.js';
import type { ContractSecurity, ReplyStream } from '../../contract/grpc.ts';
import { PROTOCOL_VERSION } from '../../contract/protocol.ts';
import type { StepOutput, StepPlan } from '../scheduler/plan.ts';
import type { SequenceUpdate } from '../scheduler/spec.ts';
import { type TransferFigures, newFigures } from '../transfer/figures.ts';
import { hostId } from '../transfer/host-clock.ts';
import { type Adopter, Incoming } from '../transfer/incoming.ts';
import { Outgoing } from '../transfer/outgoing.ts';
import { TcpListener } from '../transfer/tcp-listener.ts';
import type { HostedTransfers } from './engine-server.ts';
import type { HostedEngine } from './hosted-engine.ts';
import type { StepScheduler } from './step-loop.ts';

export interface EngineTransfersOptions {
  readonly engine: Pick<HostedEngine, 'scheduler' | 'kv' | 'pages' | 'readsForeignPages' | 'numericsId'>;
  readonly instance: string;
  readonly incarnation: string;
  readonly model: string;
  readonly kvLayout: string;
  /** false: blocks are sent over TCP on this host too. */
  readonly mapsPools: boolean;
  readonly usesPrefixCache: boolean;
  readonly security: ContractSecurity;
  /** Where instances on other hosts fetch blocks, and under which name. */
  readonly listenHost: string;
  readonly advertisedHost: string;
  readonly adopter: () => Adopter;
  readonly publish: (update: SequenceUpdate) => void;
  readonly onStay: (id: number) => void;
  readonly wake: () => void;
  readonly nowMs: () => number;
}

const SETTLE_POLL_MS = 20;

export class EngineTransfers implements HostedTransfers, StepScheduler<SequenceUpdate> {
  readonly #engine: EngineTransfersOptions['engine'];
  readonly #figures: TransferFigures = newFigures();
  readonly #outgoing: Outgoing;
  readonly #incoming: Incoming;

  constructor(options: EngineTransfersOptions) {
    const { engine, instance, incarnation, model, kvLayout, mapsPools, security, publish, onStay, wake, nowMs } =
      options;
    const { scheduler, kv, pages, numericsId } = engine;
    const identity = { model, numericsId, kvLayout };
    const host = mapsPools ? hostId() : '';
    this.#engine = engine;
    const common = { scheduler, kv, pages, security, figures: this.#figures, publish, wake, nowMs };
    this.#outgoing = new Outgoing({
      ...common,
      listener: new TcpListener(options.listenHost, security),
      advertisedHost: options.advertisedHost,
      mapsPools,
      onStay,
      pair: (target) =>
        create(PairSchema, {
          protocol: PROTOCOL_VERSION,
          instance,
          incarnation,
          targetIncarnation: target.incarnation,
          ...identity,
          host: pages.files ? host : '',
          pools: (pages.files ?? []).map((file) =>
            create(PoolFileSchema, { ...file, numBytes: BigInt(file.numBytes), pageBytes: BigInt(file.pageBytes) }),
          ),
        }),
    });
    this.#incoming = new Incoming({
      ...common,
      incarnation,
      identity,
      host: engine.readsForeignPages ? host : '',
      usesPrefixCache: options.usesPrefixCache,
      adopter: {
        refusalOf: (request, choice) => options.adopter().refusalOf(request, choice),
        specOf: (request) => options.adopter().specOf(request),
        adopt: (...of) => options.adopter().adopt(...of),
      },
    });
  }

  begin(id: number, request: SubmitRequest, choice: number, target: HandOffTarget, isLive: boolean): void {
    this.#outgoing.begin(id, request, choice, target, isLive);
  }

  keep(id: number): void {
    this.#outgoing.keep(id);
  }

  ended(id: number): void {
    this.#outgoing.ended(id);
  }

  accept(
    requests: { onMessage(listener: (message: SourceMessage) => void): void },
    stream: ReplyStream<TargetMessage>,
  ): void {
    this.#incoming.accept(requests, stream);
  }

  plan(nowMs: number): StepPlan | null {
    this.#incoming.planning();
    const plan = this.#engine.scheduler.plan(nowMs);
    if (!plan) return null;
    this.#outgoing.planned(plan.sequenceIds);
    this.#incoming.planned(plan.stepId);
    return plan;
  }

  commit(plan: StepPlan, output: StepOutput, nowMs: number): readonly SequenceUpdate[] {
    this.#incoming.completed(plan.sequenceIds);
    return this.#engine.scheduler.commit(plan, output, nowMs);
  }

  /** After the step's tokens were sent: the first one overtakes the hand-over. */
  committed(stepId: number): void {
    this.#outgoing.committed();
    this.#incoming.committed(stepId);
  }

  /** To be called now and then: what ended outside of steps gives its pages back. */
  flush(): void {
    this.#incoming.flush();
  }

  status(): HandOffStatus {
    const figures = this.#figures;
    return create(HandOffStatusSchema, {
      handedOver: BigInt(figures.numHandedOver),
      taken: BigInt(figures.numTaken),
      kept: BigInt(figures.numKept),
      blocksPushed: BigInt(figures.numBlocksPushed),
      bytesPushed: BigInt(figures.numBytesPushed),
      blocksLent: BigInt(figures.numBlocksLent),
      bytesBeforeFirstStep: BigInt(figures.numBytesBeforeFirstStep),
      bytesCopied: BigInt(figures.numBytesCopied),
      numOpen: this.#outgoing.numOpen + this.#incoming.numOpen,
      pagesOut: this.#engine.kv.exchange.numLent,
    });
  }

  /** Resolves when others have no page of ours any more, or after `deadlineMs`: then they compute anew what they lose. */
  async settle(deadlineMs: number): Promise<void> {
    const endMs = performance.now() + deadlineMs;
    while (performance.now() < endMs) {
      this.flush();
      if (this.#engine.kv.exchange.numLent === 0 && this.#outgoing.numOpen + this.#incoming.numOpen === 0) return;
      this.#outgoing.recallAll();
      await sleep(SETTLE_POLL_MS);
    }
  }

  close(): void {
    this.#outgoing.close();
    this.#incoming.close();
  }
}
