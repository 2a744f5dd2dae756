// Owns what code sees of tracing: spans as values that may be absent, and the W3C traceparent header.

export type SpanAttributes = Readonly<Record<string, string | number | boolean>>;

/** The place in a trace that a child names as its parent, also in another process. */
export interface TraceContext {
  /** 32 hexadecimal digits. */
  readonly traceId: string;
  /** 16 hexadecimal digits. */
  readonly spanId: string;
  /** Whether anybody keeps the trace; children follow. */
  readonly isSampled: boolean;
}

/** A stage of a request. Times are milliseconds of the monotonic clock. */
export interface Span {
  readonly context: TraceContext;
  /** `startMs`: now, where absent. */
  child(name: string, attributes?: SpanAttributes, startMs?: number): Span;
  /** Something that happened at one moment. */
  event(name: string, attributes?: SpanAttributes): void;
  /** Once. `error`: the stage failed, and why. */
  end(attributes?: SpanAttributes, options?: { readonly endMs?: number; readonly error?: string }): void;
}

/** Where tracing is off there is none: callers hold `Tracer | null` and pay for a comparison. */
export interface Tracer {
  /** A span without a parent in this process. `parent` null: it begins a trace. */
  start(name: string, parent: TraceContext | null, attributes?: SpanAttributes, startMs?: number): Span;
  /** Sends what has ended; to be awaited before the process exits. Never rejects. */
  close(): Promise<void>;
}

/** W3C Trace Context: version, trace id, parent id, flags; newer versions may go on. Ids of zeros only are not valid. */
const traceparent =
  /^(?:00|(?!ff|00)[\da-f]{2}(?=.{53}(?:-|$)))-(?!0{32})([\da-f]{32})-(?!0{16})([\da-f]{16})-([\da-f]{2})/;

/** null: absent or malformed, both of which begin a new trace, as the standard says. */
export function parseTraceparent(header: unknown): TraceContext | null {
  const match = typeof header === 'string' ? traceparent.exec(header) : null;
  const [all, traceId, spanId, flags] = match ?? [];
  if (all === undefined || traceId === undefined || spanId === undefined || flags === undefined) return null;
  // Version 00 ends with the flags.
  if (all.startsWith('00') && header !== all) return null;
  return { traceId, spanId, isSampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

export function formatTraceparent({ traceId, spanId, isSampled }: TraceContext): string {
  return `00-${traceId}-${spanId}-${isSampled ? '01' : '00'}`;
}

/** Does `work` as a stage of `parent`; what it throws is the span's error. */
export async function inSpan<T>(parent: Span | null, name: string, work: () => Promise<T>): Promise<T> {
  const span = parent?.child(name);
  if (!span) return work();
  try {
    const value = await work();
    span.end();
    return value;
  } catch (error) {
    span.end({}, { error: error instanceof Error ? error.message : String(error) });
    throw error;
  }
}
