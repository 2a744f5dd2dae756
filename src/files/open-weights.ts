// Owns opening a model's weights, whatever their container and however many files they are split over.
import { closeSync, existsSync, readdirSync, readSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { XllmError } from '../common/errors.ts';
import { isJsonObject, readJsonObject } from './bounded-json.ts';
import { readGgufHeader } from './gguf-reader.ts';
import { invalidFile, openFile, TensorFileSet } from './open-file.ts';
import { readSafetensorsHeader } from './safetensors-reader.ts';
import type {
  GgufFile,
  GgufMetadata,
  JsonObject,
  OpenFile,
  SafetensorsFolder,
  TensorFiles,
  TensorInfo,
  WeightsFile,
} from './weights-file.ts';

const maxShards = 1_000;
const splitName = /^(?<stem>.+)-(?<no>\d{5})-of-(?<count>\d{5})\.gguf$/;
const indexName = 'model.safetensors.index.json';

/**
 * Opens a .gguf file (of a split set: any part), a .safetensors file with config.json beside it, or a folder that
 * holds one model. Reads headers only. Throws XllmError model_unavailable where there is nothing at `path`,
 * model_file_invalid for files that are truncated, corrupt or of an unknown kind.
 */
export async function openWeights(path: string): Promise<WeightsFile> {
  const file = findModelFile(path);
  return file.endsWith('.json') || file.endsWith('.safetensors') ? openModelFolder(file) : openGguf(file);
}

/** As openWeights, but of a folder config.json is enough: for those who only read what a model is. */
export async function openDescription(path: string): Promise<WeightsFile> {
  const config = readJsonFile(join(path, 'config.json'));
  const isDescription =
    config !== undefined &&
    !readdirSync(path).some((name) => /\.(safetensors|gguf)$|^model\.safetensors\.index\.json$/.test(name));
  if (!isDescription) return openWeights(path);
  const generationConfig = readJsonFile(join(path, 'generation_config.json'));
  return openSet({ kind: 'safetensors' as const, folder: path, config, generationConfig }, [], new Map());
}

/** The tensors of one .safetensors file, with or without a config.json beside it. */
export function openSafetensorsFile(path: string): TensorFiles {
  return closingOnFailure((files) => {
    const file = keep(files, openFile(path));
    return new TensorFileSet(files, readSafetensorsHeader(file));
  });
}

/** The file that stands for the model at `path`: a .gguf, a .safetensors or an index of shards. */
function findModelFile(path: string): string {
  if (!existsSync(path)) throw new XllmError('model_unavailable', `${path}: no such file or folder`);
  if (!statSync(path).isDirectory()) return checkKind(path);
  const names = readdirSync(path).sort();
  for (const name of [indexName, 'model.safetensors']) {
    if (names.includes(name)) return join(path, name);
  }
  const candidates = names.filter((name) => name.endsWith('.safetensors'));
  if (candidates.length === 0) {
    candidates.push(
      ...names.filter((name) => name.endsWith('.gguf') && Number(splitName.exec(name)?.groups?.['no'] ?? 1) === 1),
    );
  }
  const [only, second] = candidates;
  if (only === undefined)
    throw new XllmError('model_unavailable', `${path}: holds neither .safetensors nor .gguf files`);
  if (second !== undefined) {
    throw new XllmError('model_unavailable', `${path}: holds several models, name one of: ${candidates.join(', ')}`);
  }
  return join(path, only);
}

/** By content for GGUF, by name for safetensors, which have no magic. */
function checkKind(path: string): string {
  if (path.endsWith('.safetensors')) return path;
  const { fd } = openFile(path);
  const magic = Buffer.alloc(4);
  try {
    readSync(fd, magic, 0, 4, 0);
  } finally {
    closeSync(fd);
  }
  if (magic.toString('latin1') !== 'GGUF') throw invalidFile(path, 'is neither a GGUF nor a .safetensors file', 0);
  return path;
}

function openGguf(path: string): GgufFile {
  return closingOnFailure((files) => {
    const parts = splitParts(path);
    const tensors = new Map<string, TensorInfo>();
    let metadata: GgufMetadata = new Map();
    for (const [index, part] of parts.entries()) {
      const file = keep(files, openFile(part));
      const header = readGgufHeader(file, index);
      if (index === 0) metadata = header.metadata;
      checkSplit(file, header.metadata, index, parts.length);
      addTensors(file, tensors, header.tensors.values());
    }
    const total = metadata.get('split.tensors.count');
    if (total !== undefined && total !== tensors.size) {
      throw invalidFile(path, `states ${String(total)} tensors over its parts, they hold ${tensors.size}`);
    }
    return openSet({ kind: 'gguf', metadata }, files, tensors);
  });
}

/** Paths of all parts, in order, in the folder of the named one. */
function splitParts(path: string): readonly string[] {
  const match = splitName.exec(basename(path))?.groups;
  const count = Number(match?.['count'] ?? 1);
  if (match === undefined || count <= 1) return [path];
  if (count > maxShards) throw invalidFile(path, `is one of ${count} parts, at most ${maxShards} are read`);
  const padded = (n: number) => String(n).padStart(5, '0');
  const partName = (i: number) => `${match['stem']}-${padded(i + 1)}-of-${padded(count)}.gguf`;
  return Array.from({ length: count }, (_, i) => join(dirname(path), partName(i)));
}

function checkSplit(file: OpenFile, metadata: GgufMetadata, index: number, count: number): void {
  const statedCount = metadata.get('split.count') ?? 1;
  // A file that was never split may say 0 parts.
  if (statedCount === count || (count === 1 && statedCount === 0)) {
    if (count === 1 || metadata.get('split.no') === index) return;
  }
  const stated = `part ${String(metadata.get('split.no'))} of ${String(statedCount)} (from 0)`;
  throw invalidFile(file.path, `is ${stated} by its metadata, part ${index} of ${count} by its name; restore its name`);
}

function openModelFolder(path: string): SafetensorsFolder {
  const folder = dirname(path);
  return closingOnFailure((files) => {
    const tensors = new Map<string, TensorInfo>();
    if (path.endsWith('.json')) readShards(path, files, tensors);
    else addTensors(keep(files, openFile(path)), tensors, readSafetensorsHeader(files[0] as OpenFile).values());
    const config = readJsonFile(join(folder, 'config.json'));
    if (config === undefined) {
      throw new XllmError('model_unavailable', `${path}: there is no config.json beside it; it names the architecture`);
    }
    const generationConfig = readJsonFile(join(folder, 'generation_config.json'));
    return openSet({ kind: 'safetensors', folder, config, generationConfig }, files, tensors);
  });
}

/** Opens every shard that the index names; tensors that it places elsewhere are not taken. */
function readShards(indexPath: string, files: OpenFile[], tensors: Map<string, TensorInfo>): void {
  const weightMap = readJsonFile(indexPath)?.['weight_map'];
  if (!isJsonObject(weightMap)) throw invalidFile(indexPath, 'has no weight_map');
  const namesByShard = new Map<string, Set<string>>();
  for (const [name, shard] of Object.entries(weightMap)) {
    if (
      typeof shard !== 'string' ||
      !shard.endsWith('.safetensors') ||
      basename(shard) !== shard ||
      /[\\\0]/.test(shard)
    ) {
      throw invalidFile(
        indexPath,
        `places ${name} in ${JSON.stringify(shard)}, which is no .safetensors file of its folder`,
      );
    }
    namesByShard.set(shard, (namesByShard.get(shard) ?? new Set()).add(name));
  }
  if (namesByShard.size > maxShards) {
    throw invalidFile(indexPath, `names ${namesByShard.size} shards, at most ${maxShards} are read`);
  }
  for (const [shard, names] of namesByShard) {
    const file = keep(files, openFile(join(dirname(indexPath), shard)));
    const header = readSafetensorsHeader(file, files.length - 1);
    for (const name of names) {
      const tensor = header.get(name);
      if (tensor === undefined) throw invalidFile(file.path, `lacks ${name}, which the index places in it`);
      tensors.set(name, tensor);
    }
  }
}

/** Undefined where there is no such file. */
function readJsonFile(path: string): JsonObject | undefined {
  if (!existsSync(path)) return undefined;
  const file = openFile(path);
  try {
    return readJsonObject(file);
  } finally {
    closeSync(file.fd);
  }
}

function addTensors(file: OpenFile, to: Map<string, TensorInfo>, tensors: Iterable<TensorInfo>): void {
  for (const tensor of tensors) {
    if (to.has(tensor.name)) throw invalidFile(file.path, `holds ${tensor.name}, which an earlier part holds too`);
    to.set(tensor.name, tensor);
  }
}

function openSet<T extends object>(
  what: T,
  files: readonly OpenFile[],
  tensors: ReadonlyMap<string, TensorInfo>,
): T & TensorFiles {
  const set = new TensorFileSet(files, tensors);
  return {
    ...what,
    files,
    tensors,
    read: (tensor, target, offset) => set.read(tensor, target, offset),
    close: () => set.close(),
  };
}

function keep(files: OpenFile[], file: OpenFile): OpenFile {
  files.push(file);
  return file;
}

/** Descriptors opened so far are closed when `open` fails. */
function closingOnFailure<T>(open: (files: OpenFile[]) => T): T {
  const files: OpenFile[] = [];
  try {
    return open(files);
  } catch (error) {
    for (const file of files) closeSync(file.fd);
    throw error;
  }
}
