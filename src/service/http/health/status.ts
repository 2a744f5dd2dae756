// Owns what the service knows of its engine right now, asked within a bounded time.
import type { StatusReply } from '../../../contract/generated/xllm_pb.js';
import type { EngineClient } from '../../engine-client.ts';

const STATUS_TIMEOUT_MS = 2_000;

/** null: no engine, or none that answers in time. */
export async function statusInTime(engine: EngineClient, timeoutMs = STATUS_TIMEOUT_MS): Promise<StatusReply | null> {
  const { promise: late, resolve } = Promise.withResolvers<null>();
  const timer = setTimeout(() => resolve(null), timeoutMs);
  try {
    return await Promise.race([engine.status(), late]);
  } finally {
    clearTimeout(timer);
  }
}
