// Owns reading a safetensors header: names, formats, shapes and where each tensor's data lies.
// Format: the safetensors repository's README (u64 header length, JSON header, data).
import { readSync } from 'node:fs';
import { isJsonObject, parseJsonObject } from './bounded-json.ts';
import { bytesOf, type DType, dtypes } from './dtype.ts';
import { checkLayout, invalidFile } from './open-file.ts';
import type { Json, OpenFile, TensorInfo } from './weights-file.ts';

/** 2^20 tensors would take about 100 MB of header; the format's own library stops at 100 MB, real files at 10. */
const headerLimits = { maxBytes: 64 << 20, maxDepth: 8, maxItems: 1 << 22 };

const lengthBytes = 8;
const maxDims = 8;

/** Reads one file's header. `fileIndex` is that of its tensors. Throws XllmError model_file_invalid. */
export function readSafetensorsHeader(file: OpenFile, fileIndex = 0): ReadonlyMap<string, TensorInfo> {
  const headerBytes = readHeaderLength(file);
  const header = parseJsonObject(file, lengthBytes, headerBytes, headerLimits);
  const dataStart = lengthBytes + headerBytes;
  const tensors = new Map<string, TensorInfo>();
  for (const [name, entry] of Object.entries(header)) {
    if (name !== '__metadata__') tensors.set(name, readEntry(file, name, entry, dataStart, fileIndex));
  }
  checkLayout(file, tensors.values());
  return tensors;
}

function readHeaderLength(file: OpenFile): number {
  const length = Buffer.alloc(lengthBytes);
  if (readSync(file.fd, length, 0, lengthBytes, 0) < lengthBytes) {
    throw invalidFile(file.path, `has ${file.numBytes} bytes: too short for a safetensors file`, 0);
  }
  const headerBytes = length.readBigUInt64LE();
  if (headerBytes > BigInt(file.numBytes - lengthBytes)) {
    throw invalidFile(file.path, `states a header of ${headerBytes} bytes, the file has ${file.numBytes}`, 0);
  }
  if (headerBytes > BigInt(headerLimits.maxBytes)) {
    throw invalidFile(
      file.path,
      `states a header of ${headerBytes} bytes, at most ${headerLimits.maxBytes} are read`,
      0,
    );
  }
  return Number(headerBytes);
}

function readEntry(
  file: OpenFile,
  name: string,
  entry: Json | undefined,
  dataStart: number,
  fileIndex: number,
): TensorInfo {
  const fault = (what: string) => invalidFile(file.path, `the header's entry ${name} ${what}`, lengthBytes);
  if (!isJsonObject(entry)) throw fault('is not an object');
  const { dtype, shape, data_offsets: offsets } = entry;
  if (!isDType(dtype)) throw fault(`has the format ${JSON.stringify(dtype)}, which is not supported`);
  if (!isSizes(shape) || shape.length > maxDims) throw fault(`has a malformed shape`);
  if (!isSizes(offsets) || offsets.length !== 2) throw fault(`has malformed data_offsets`);
  const [begin, end] = offsets as readonly [number, number];

  const numElements = shape.reduce((product, size) => product * size, 1);
  const numBytes = bytesOf(dtype, numElements);
  if (!Number.isSafeInteger(numElements) || !Number.isSafeInteger(numBytes)) {
    throw fault(`has an impossible shape [${shape.join(', ')}]`);
  }
  if (end - begin !== numBytes) {
    throw fault(`spans ${end - begin} bytes, ${dtype} [${shape.join(', ')}] takes ${numBytes}`);
  }
  return { name, dtype, shape, numElements, numBytes, fileIndex, byteOffset: dataStart + begin };
}

/** Only formats that safetensors has: their blocks are single elements. */
function isDType(value: Json | undefined): value is DType {
  return typeof value === 'string' && Object.hasOwn(dtypes, value) && dtypes[value as DType].blockElements === 1;
}

function isSizes(value: Json | undefined): value is readonly number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}
