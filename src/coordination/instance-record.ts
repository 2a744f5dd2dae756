// Owns what an instance says of itself to the coordinator: a versioned record, checked before anything is believed.
import { z } from 'zod';

/** Where instances register: `/instances/NAME`. */
export const INSTANCE_PREFIX = '/instances/';
/** Held by the service replica that takes decisions for the whole cluster. */
export const WRITER_KEY = '/writer';

/** Raised when a field changes its meaning. New fields have defaults and need no new version. */
const RECORD_VERSION = 1;

const name = z.string().min(1).max(200);
const count = z.number().int().min(0);

const recordSchema = z.object({
  version: z.literal(RECORD_VERSION),
  name,
  /** Changes with every life of the process. */
  incarnation: name,
  /** Where the service reaches it: `host:port` or `unix:/path`. */
  address: z.string().min(1).max(500),
  /** Roles that it can take; `mix` does prefill and decode. */
  roles: z.array(z.enum(['prefill', 'decode', 'encode', 'mix'])).min(1),
  model: name,
  build: z.string().max(200).default(''),
  /** Kernel set, version, weight and KV formats: only between equal ones are results identical and KV exchangeable. */
  numericsId: z.string().max(500),
  /** Shape of a KV page: only between equal ones can pages travel. '': not stated. */
  kvLayout: z.string().max(500).default(''),
  capacity: z.object({
    maxNumSeqs: count,
    maxNumBatchedTokens: count,
    /** 0: not stated. */
    longPrefillThreshold: count.default(0),
    numKvBlocks: count,
    blockTokens: count.min(1),
    maxModelLen: count,
  }),
  /** What its steps cost at registration (milliseconds per unit); heartbeats carry what it has learned since. */
  stepTime: z
    .object({
      constantMs: z.number(),
      tokenMs: z.number(),
      seqMs: z.number(),
      contextMs: z.number(),
      pairMs: z.number(),
    })
    .nullable()
    .default(null),
});

export type InstanceRecord = z.output<typeof recordSchema>;

export function encodeRecord(record: Omit<InstanceRecord, 'version'>): Uint8Array {
  return new TextEncoder().encode(JSON.stringify({ version: RECORD_VERSION, ...record }));
}

/** A record, or in words why the bytes are none: a foreign, malformed or newer key changes nothing. */
export function decodeRecord(bytes: Uint8Array): InstanceRecord | string {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    if (error instanceof SyntaxError) return 'it is not JSON';
    throw error;
  }
  const version = z.object({ version: z.number() }).safeParse(value).data?.version;
  if (version === undefined) return 'it states no version';
  if (version !== RECORD_VERSION) return `it is of version ${version}, and this build knows version ${RECORD_VERSION}`;
  const parsed = recordSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  return `${issue?.path.join('.')}: ${issue?.message ?? 'is not valid'}`;
}
