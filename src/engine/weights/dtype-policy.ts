// Owns which format each tensor is held in, given what the user asked for.
import { XllmError } from '../../common/errors.ts';
import type { DType } from '../../files/dtype.ts';
import type { TensorInfo } from '../../files/weights-file.ts';
import { isFloatType, type TensorType, tensorTypes } from '../tensor/dtype.ts';

/**
 * auto: as the file has it. float32: everything dequantised or widened, the setting in which outputs are compared
 * with references. bfloat16: plain formats become BF16, block formats stay.
 */
export type DTypePolicy = 'auto' | 'float32' | 'bfloat16';

/** Vectors (norms, biases) are always F32: ggml adds and multiplies nothing else. Throws XllmError model_unsupported. */
export function targetType({ name, dtype, shape }: TensorInfo, policy: DTypePolicy): TensorType {
  if (!isWeightType(dtype)) {
    const supported = Object.keys(tensorTypes).filter((type) => isWeightType(type as DType));
    throw new XllmError(
      'model_unsupported',
      `tensor ${name} is ${dtype}; supported weight formats: ${supported.join(', ')}`,
    );
  }
  if (shape.length < 2 || policy === 'float32') return 'F32';
  return policy === 'bfloat16' && isFloatType(dtype) ? 'BF16' : dtype;
}

/** Formats that products take; the names are those of the files. */
export function isWeightType(type: DType): type is DType & TensorType {
  return type in tensorTypes && type !== 'I32' && type !== 'I8';
}
