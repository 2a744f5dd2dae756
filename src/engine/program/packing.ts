// Owns how a step program wants matrices laid out, and which models it can run.
import type { TensorInfo, WeightsFile } from '../../files/weights-file.ts';
import type { Isa } from '../jit/cpu-features.ts';
import { packedLayout } from '../jit/kernels/product/layout.ts';
import type { ModelConfig } from '../models/config.ts';
import { asInFile, forProducts, type PackingOf } from '../tensor/packing.ts';
import { type DTypePolicy, targetType } from '../weights/dtype-policy.ts';

/** For these kernels. */
export const packingFor = (kernels: Isa | 'ggml'): PackingOf => (kernels === 'ggml' ? asInFile : forProducts);

/** Why no program can be emitted for a model; null: one can. */
export function programObstacle(config: ModelConfig, file: WeightsFile, dtype: DTypePolicy): string | null {
  const { headDim, hiddenSize, ffnSize } = config;
  if (headDim % 16 !== 0 || headDim > 256) {
    return `the kernels take heads of 16 to 256 elements in steps of 16, these have ${headDim}`;
  }
  const types = new Set([...file.tensors.values()].filter(isMatrix).map((info) => targetType(info, dtype)));
  const unpacked = [...types].find((type) => packedLayout(type) === null);
  if (unpacked) return `no emitted products take ${unpacked}`;
  const isQuantised = [...types].some((type) => packedLayout(type)?.kind === 'integer');
  const unit = isQuantised ? 32 : 16;
  const ragged = [hiddenSize, ffnSize, config.numHeads * headDim].find((size) => size % unit !== 0);
  return ragged === undefined ? null : `the kernels take rows in steps of ${unit} elements, these have ${ragged}`;
}

const isMatrix = ({ shape }: TensorInfo): boolean => shape.length > 1;
