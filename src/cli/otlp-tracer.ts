// Owns tracing through the OpenTelemetry SDK: spans in batches, OTLP over HTTP. Loaded only where traces are wanted.
import {
  type Context,
  ROOT_CONTEXT,
  type Span as OtelSpan,
  SpanStatusCode,
  trace,
  TraceFlags,
} from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { detectResources, envDetector, resourceFromAttributes } from '@opentelemetry/resources';
import { BatchSpanProcessor, type SpanExporter, TracerProvider } from '@opentelemetry/sdk-trace';
import type { Log } from '../common/log.ts';
import type { Span, SpanAttributes, TraceContext, Tracer } from '../common/trace.ts';
import { BUILD } from '../contract/protocol.ts';

export interface OtlpTracerOptions {
  /** Base URL of the collector; undefined: the standard OTEL_EXPORTER_OTLP_* variables say. */
  readonly endpoint: string | undefined;
  /** Which process of the product sends. */
  readonly serviceName: string;
  readonly instance: string;
  readonly log: Log;
}

/** How long an ended span waits for others to travel with. */
const BATCH_MS = 1_000;
/** Tries again included. A process that ends waits no longer for a collector that is away. */
const EXPORT_TIMEOUT_MS = 3_000;

export function createOtlpTracer({ endpoint, serviceName, instance, log }: OtlpTracerOptions): Tracer {
  const exporter = new OTLPTraceExporter({
    ...(endpoint === undefined ? {} : { url: `${endpoint.replace(/\/+$/, '')}/v1/traces` }),
    timeoutMillis: EXPORT_TIMEOUT_MS,
  });
  const provider = new TracerProvider({
    // OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME come first.
    resource: resourceFromAttributes({
      'service.name': serviceName,
      'service.version': BUILD,
      'service.instance.id': instance,
    }).merge(detectResources({ detectors: [envDetector] })),
    spanProcessors: [
      new BatchSpanProcessor({
        exporter: reporting(exporter, log),
        scheduledDelayMillis: BATCH_MS,
        exportTimeoutMillis: EXPORT_TIMEOUT_MS,
      }),
    ],
  });
  const tracer = provider.getTracer('xllm', BUILD);
  const begin = (name: string, parent: Context, attributes: SpanAttributes, startMs: number): Span =>
    new SdkSpan(tracer.startSpan(name, { attributes, startTime: epochMs(startMs) }, parent), begin);
  return {
    start: (name, parent, attributes = {}, startMs = performance.now()) =>
      begin(name, parent ? remote(parent) : ROOT_CONTEXT, attributes, startMs),
    close: async () => {
      await provider.shutdown().catch((error: unknown) => {
        log.debug('traces were lost at the end', { reason: String(error) });
      });
    },
  };
}

class SdkSpan implements Span {
  readonly context: TraceContext;
  readonly #span: OtelSpan;
  readonly #begin: (name: string, parent: Context, attributes: SpanAttributes, startMs: number) => Span;

  constructor(
    span: OtelSpan,
    begin: (name: string, parent: Context, attributes: SpanAttributes, startMs: number) => Span,
  ) {
    const { traceId, spanId, traceFlags } = span.spanContext();
    this.context = { traceId, spanId, isSampled: (traceFlags & TraceFlags.SAMPLED) !== 0 };
    this.#span = span;
    this.#begin = begin;
  }

  child(name: string, attributes: SpanAttributes = {}, startMs = performance.now()): Span {
    return this.#begin(name, trace.setSpan(ROOT_CONTEXT, this.#span), attributes, startMs);
  }

  event(name: string, attributes: SpanAttributes = {}): void {
    this.#span.addEvent(name, attributes, epochMs(performance.now()));
  }

  end(attributes: SpanAttributes = {}, { endMs = performance.now(), error }: Parameters<Span['end']>[1] = {}): void {
    this.#span.setAttributes(attributes);
    if (error !== undefined) this.#span.setStatus({ code: SpanStatusCode.ERROR, message: error });
    this.#span.end(epochMs(endMs));
  }
}

function remote({ traceId, spanId, isSampled }: TraceContext): Context {
  const traceFlags = isSampled ? TraceFlags.SAMPLED : TraceFlags.NONE;
  return trace.setSpanContext(ROOT_CONTEXT, { traceId, spanId, traceFlags, isRemote: true });
}

/** Milliseconds since 1970 of a monotonic time: all processes of a host agree on it but for their clocks' drift. */
function epochMs(monotonicMs: number): number {
  return performance.timeOrigin + monotonicMs;
}

/** One line when the collector stops taking spans and one when it takes them again; the SDK itself says nothing. */
function reporting(exporter: SpanExporter, log: Log): SpanExporter {
  let isFailing = false;
  return {
    export: (spans, done) =>
      exporter.export(spans, (result) => {
        const fails = result.code !== 0;
        if (fails && !isFailing) log.warn(`traces cannot be sent: ${result.error?.message ?? 'the collector refuses'}`);
        if (!fails && isFailing) log.info('traces are sent again');
        isFailing = fails;
        done(result);
      }),
    shutdown: () => exporter.shutdown(),
    forceFlush: async () => exporter.forceFlush?.(),
  };
}
