// Owns whether traces are sent: by --otlp-endpoint or OpenTelemetry's standard variables; the SDK is loaded only then.
import type { Log } from '../common/log.ts';
import type { Tracer } from '../common/trace.ts';

type Environment = Readonly<Record<string, string | undefined>>;

export interface TracedProcess {
  readonly serviceName: 'xllm-service' | 'xllm-engine';
  readonly instance: string;
}

/** null: nobody wants traces. */
export async function openTracer(
  endpoint: string | undefined,
  { serviceName, instance }: TracedProcess,
  log: Log,
  environment: Environment,
): Promise<Tracer | null> {
  if (endpoint === undefined && !isWantedBy(environment)) return null;
  const { createOtlpTracer } = await import('./otlp-tracer.ts');
  return createOtlpTracer({ endpoint, serviceName, instance, log });
}

/** As the OpenTelemetry SDK's specification of environment variables has it. */
function isWantedBy(environment: Environment): boolean {
  const isDisabled = environment['OTEL_SDK_DISABLED']?.toLowerCase() === 'true';
  const exportsNone = environment['OTEL_TRACES_EXPORTER'] === 'none';
  const endpoint = environment['OTEL_EXPORTER_OTLP_TRACES_ENDPOINT'] || environment['OTEL_EXPORTER_OTLP_ENDPOINT'];
  return Boolean(endpoint) && !isDisabled && !exportsNone;
}
