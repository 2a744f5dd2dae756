// Owns what the service knows of its engine right now, asked within a bounded time.
import type { StatusReply } from '../../../contract/generated/xllm_pb.js';
import type { EngineClient, InstanceStatus } from '../../engine-client.ts';

const STATUS_TIMEOUT_MS = 2_000;

/** null: no engine, or none that answers in time. */
export function statusInTime(engine: EngineClient, timeoutMs = STATUS_TIMEOUT_MS): Promise<StatusReply | null> {
  return inTime(engine.status(), null, timeoutMs);
}

/** Of every engine; empty where they do not all answer in time. */
export function statusesInTime(engine: EngineClient): Promise<readonly InstanceStatus[]> {
  return inTime(engine.statuses(), [], STATUS_TIMEOUT_MS);
}

async function inTime<T>(answer: Promise<T>, otherwise: T, timeoutMs: number): Promise<T> {
  const { promise: late, resolve } = Promise.withResolvers<T>();
  const timer = setTimeout(() => resolve(otherwise), timeoutMs);
  try {
    return await Promise.race([answer, late]);
  } finally {
    clearTimeout(timer);
  }
}
