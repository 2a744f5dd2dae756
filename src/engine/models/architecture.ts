// Owns what the file of one architecture states: its names, and how its config differs from the common decoder.
import type { LayerConfig, ModelConfig, RopeConfig } from './config.ts';
import type { Fields } from './fields.ts';

/** Differences from the common decoder; what is left out stays as read. */
export type ConfigDelta = Partial<Omit<ModelConfig, 'architecture'>>;

export interface Architecture {
  /** `architectures[0]` of config.json. */
  readonly hfName: string;
  /** `general.architecture` of GGUF files; null: they use another one's. */
  readonly ggufName: string | null;
  fromHf?(fields: Fields, common: ModelConfig): ConfigDelta;
  fromGguf?(fields: Fields, common: ModelConfig): ConfigDelta;
}

/** Gives each layer its window: `windowOf(layer)`, null for none. */
export function withWindows(config: ModelConfig, windowOf: (layer: number) => number | null): LayerConfig[] {
  return config.layers.map((layer, i) => ({ ...layer, window: windowOf(i) }));
}

/** Gives each layer its rope. */
export function withRopes(layers: readonly LayerConfig[], ropeOf: (layer: LayerConfig) => RopeConfig): LayerConfig[] {
  return layers.map((layer) => ({ ...layer, rope: ropeOf(layer) }));
}
