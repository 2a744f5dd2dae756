// Owns what the KV write stores, in plain terms: the specification of the emitted kernel.
import { toHalf } from './float.ref.ts';
import { type KvElement, largestElement } from './kv-element.ts';
import { LEAST_MAGNITUDE, MOST_MAGNITUDE } from './kv-write.ts';

/** What the cache keeps of a head's key or value: element * scale is the value. */
export interface CachedHead {
  readonly elements: Float32Array;
  /** 1 but for int8. */
  readonly scale: number;
}

export function cachedHead(values: Float32Array, element: KvElement): CachedHead {
  if (element !== 'int8') return { elements: values.map((value) => rounded(value, element)), scale: 1 };
  const magnitude = values.reduce((most, value) => (Math.abs(value) > most ? Math.abs(value) : most), LEAST_MAGNITUDE);
  const most = Math.min(magnitude, MOST_MAGNITUDE);
  const inverse = Math.fround(127 / most);
  return {
    elements: values.map((value) => rounded(Math.fround(value * inverse), 'int8')),
    scale: Math.fround(most * Math.fround(1 / 127)),
  };
}

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

function rounded(value: number, element: KvElement): number {
  const most = largestElement[element];
  const limited = Math.max(-most, Math.min(most, value));
  switch (element) {
    case 'f32':
      return Math.fround(limited);
    case 'f16':
      return toHalf(limited);
    case 'bf16':
      float[0] = limited;
      bits[0] = (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) & 0xffff_0000;
      return float[0];
    case 'int8': {
      const floor = Math.floor(limited);
      if (Number.isNaN(limited)) return 0;
      // Integers have no -0.
      return (limited - floor === 0.5 ? floor + (floor & 1) : Math.round(limited)) + 0;
    }
  }
}
