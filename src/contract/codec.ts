// Owns how arrays of numbers travel: little-endian bytes, viewed without a copy where alignment allows.

/** i32 values as little-endian bytes. Shares memory with the array. */
export function bytesOfInt32(values: Int32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** f32 values as little-endian bytes. Shares memory with the array. */
export function bytesOfFloat32(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** Throws RangeError when the length is not a multiple of 4: a malformed message. */
export function int32OfBytes(bytes: Uint8Array): Int32Array {
  return new Int32Array(aligned(bytes));
}

/** Throws RangeError when the length is not a multiple of 4: a malformed message. */
export function float32OfBytes(bytes: Uint8Array): Float32Array {
  return new Float32Array(aligned(bytes));
}

/** A copy in a buffer of its own, because a message's bytes start anywhere and live as long as the message. */
function aligned(bytes: Uint8Array): ArrayBuffer {
  if (bytes.byteLength % 4 !== 0)
    throw new RangeError(`number array of ${bytes.byteLength} bytes is not a multiple of 4`);
  const copy = new ArrayBuffer(bytes.byteLength);
  new Uint8Array(copy).set(bytes);
  return copy;
}
