// Owns what a Hub repository holds and which of its files make up one model. Pure.
import { basename } from 'node:path/posix';
import { z } from 'zod';
import { XllmError } from '../../common/errors.ts';
import type { Checksum } from './checksum.ts';

export interface RepositoryFile {
  /** Relative to the repository, with slashes. */
  readonly path: string;
  readonly numBytes: number;
  readonly checksum: Checksum;
}

export interface Listing {
  readonly repository: string;
  /** The commit that the listing describes. */
  readonly commit: string;
  readonly files: readonly RepositoryFile[];
}

const hexDigits = (length: number) => z.string().regex(new RegExp(`^[0-9a-f]{${length}}$`));

/** Reply of `GET /api/models/{repository}/revision/{revision}?blobs=true`, as far as it is used. */
const replySchema = z.object({
  sha: hexDigits(40),
  siblings: z.array(
    z.object({
      rfilename: z.string(),
      size: z.int().nonnegative().optional(),
      blobId: hexDigits(40).optional(),
      lfs: z.object({ sha256: hexDigits(64), size: z.int().nonnegative() }).nullish(),
    }),
  ),
});

/** Files without a size or checksum, or with a path that leaves the repository, are left out. */
export function parseListing(repository: string, reply: unknown): Listing {
  const parsed = replySchema.safeParse(reply);
  if (!parsed.success) throw new XllmError('model_unavailable', `${repository}: the Hub's reply is malformed`);
  const files: RepositoryFile[] = [];
  for (const { rfilename, size, blobId, lfs } of parsed.data.siblings) {
    if (!isPlainPath(rfilename)) continue;
    if (lfs) {
      files.push({ path: rfilename, numBytes: lfs.size, checksum: { kind: 'sha256', hex: lfs.sha256 } });
    } else if (size !== undefined && blobId !== undefined) {
      files.push({ path: rfilename, numBytes: size, checksum: { kind: 'git', hex: blobId } });
    }
  }
  return { repository, commit: parsed.data.sha, files };
}

/** Neither absolute nor with a way up; no name that this package gives its own files. */
function isPlainPath(path: string): boolean {
  if (/[\\:\p{Cc}]/u.test(path)) return false;
  return path.split('/').every((segment) => segment !== '' && !segment.startsWith('.') && !segment.endsWith('.part'));
}

/** Tried in this order when a repository has several and the user named none. */
const preferredQuants = ['Q4_K_M', 'Q8_0', 'Q4_0', 'Q4_1', 'Q5_K_M', 'Q6_K', 'Q4_K_S', 'BF16', 'F16', 'F32'];

const splitSuffix = /-(\d{5})-of-(\d{5})\.gguf$/;
const sidecar =
  /^(?:config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|merges|chat_template|model\.safetensors\.index)\.(?:json|txt|jinja|model)$/;

/**
 * The files of one model: a GGUF file or all its parts, first part first, or the safetensors at the top with configs
 * and tokenizer. `wanted` is a file name or a quantisation such as Q8_0. Throws XllmError model_unavailable naming what
 * there is.
 */
export function selectFiles(listing: Listing, wanted: string | undefined): readonly RepositoryFile[] {
  const models = listing.files.filter(
    ({ path }) =>
      path.endsWith('.gguf') && !basename(path).startsWith('mmproj') && Number(splitSuffix.exec(path)?.[1] ?? 1) === 1,
  );
  const first = wanted === undefined ? preferred(models) : models.find(({ path }) => isNamed(path, wanted));
  if (first !== undefined) return partsOf(listing, first);
  if (wanted === undefined) {
    const files = safetensorsFiles(listing);
    if (files.length > 0) return files;
  }
  const names = models.map(({ path }) => path).join(', ');
  const choice = names === '' ? 'it holds neither GGUF nor safetensors files' : `it holds ${names}`;
  const what = wanted === undefined ? 'nothing that can be served' : `no file or quantisation ${wanted}`;
  throw new XllmError('model_unavailable', `${listing.repository} has ${what}; ${choice}`);
}

function preferred(models: readonly RepositoryFile[]): RepositoryFile | undefined {
  for (const quant of preferredQuants) {
    const found = models.find(({ path }) => isNamed(path, quant));
    if (found !== undefined) return found;
  }
  return models[0];
}

function isNamed(path: string, wanted: string): boolean {
  if (wanted.endsWith('.gguf')) return path === wanted || basename(path) === wanted;
  const stem = basename(path)
    .replace(splitSuffix, '')
    .replace(/\.gguf$/, '')
    .toUpperCase();
  const quant = wanted.toUpperCase();
  return stem === quant || ['-', '.', '_'].some((separator) => stem.endsWith(separator + quant));
}

function partsOf(listing: Listing, first: RepositoryFile): readonly RepositoryFile[] {
  const match = splitSuffix.exec(first.path);
  if (match === null) return [first];
  const prefix = first.path.slice(0, match.index);
  const parts = listing.files.filter(
    ({ path }) =>
      path.startsWith(prefix) && splitSuffix.exec(path.slice(prefix.length))?.[0] === path.slice(prefix.length),
  );
  if (parts.length !== Number(match[2])) {
    throw new XllmError(
      'model_unavailable',
      `${listing.repository} has ${parts.length} of ${match[2]} parts of ${first.path}`,
    );
  }
  return parts.toSorted((a, b) => (a.path < b.path ? -1 : 1));
}

function safetensorsFiles(listing: Listing): readonly RepositoryFile[] {
  const top = listing.files.filter(({ path }) => !path.includes('/'));
  const tensors = top.filter(({ path }) => /^model(?:-\d{5}-of-\d{5})?\.safetensors$/.test(path));
  if (tensors.length === 0 || !top.some(({ path }) => path === 'config.json')) return [];
  return [...top.filter(({ path }) => sidecar.test(path)), ...tensors];
}
