// Owns what makes a set of instances able to serve a model. Pure.
import type { InstanceView } from './cluster-view.ts';

/** One that does both, or a prefill and a decode instance between which KV can travel. SUSPECT ones do not count. */
export function canServe(instances: readonly InstanceView[], model: string): boolean {
  const usable = instances.filter((instance) => instance.isSchedulable && instance.model === model);
  if (usable.some(({ roles }) => roles.includes('mix'))) return true;
  return usable.some(
    (prefill) =>
      prefill.roles.includes('prefill') &&
      usable.some((decode) => decode.roles.includes('decode') && canExchangeKv(prefill, decode)),
  );
}

/** Pages travel only between instances of which all three are equal. */
export function canExchangeKv(a: InstanceView, b: InstanceView): boolean {
  return a.model === b.model && a.numericsId === b.numericsId && a.kvLayout === b.kvLayout;
}
