// Owns a loopback stand-in for the Hugging Face Hub: its API reply, redirects to a second origin, ranges, and faults.
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Served {
  readonly method: string;
  readonly url: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
}

export interface MockFile {
  readonly bytes: Buffer;
  /** Outside the large-file store: the Hub then states git's hash. */
  readonly isSmall?: boolean;
  /** What the listing claims instead of the true SHA-256. */
  readonly claimedSha256?: string;
}

export interface MockHub {
  readonly url: string;
  /** `org/name` to its files. */
  readonly repositories: Map<string, Map<string, MockFile>>;
  /** Every request, in order, to either origin. */
  readonly served: Served[];
  /** Bytes after which the next transfers break, one entry each. */
  readonly cuts: number[];
  /** Transfers wait for it after their first 64 KiB. */
  gate: Promise<void>;
  ignoresRanges: boolean;
  /** Status of the next replies of the API. */
  readonly apiStatuses: number[];
  close(): Promise<void>;
}

const pieceBytes = 65_536;

export async function startMockHub(): Promise<MockHub> {
  const store = createServer();
  const api = createServer();
  const storeUrl = await listen(store);
  const hub = {
    url: await listen(api),
    repositories: new Map<string, Map<string, MockFile>>(),
    served: [] as Served[],
    cuts: [] as number[],
    apiStatuses: [] as number[],
    gate: Promise.resolve(),
    ignoresRanges: false,
    close: async () => {
      for (const server of [api, store]) {
        server.closeAllConnections();
        await new Promise((done) => server.close(done));
      }
    },
  };
  const record = (request: IncomingMessage) => {
    const { range, authorization } = request.headers;
    hub.served.push({ method: request.method ?? '', url: request.url ?? '', range, authorization });
  };
  api.on('request', (request: IncomingMessage, response: ServerResponse) => {
    record(request);
    const listing = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/main\?blobs=true$/.exec(request.url ?? '');
    const resolve = /^\/([^/]+\/[^/]+)\/resolve\/([0-9a-f]{40})\/(.+)$/.exec(request.url ?? '');
    const files = hub.repositories.get((listing ?? resolve)?.[1] ?? '');
    const status = listing === null ? undefined : hub.apiStatuses.shift();
    if (status !== undefined || files === undefined) {
      response.writeHead(status ?? 404).end('no');
    } else if (listing !== null) {
      response.end(JSON.stringify(apiReply(files)));
    } else {
      response.writeHead(302, { location: `${storeUrl}/${resolve?.[1]}/${resolve?.[3]}` }).end();
    }
  });
  store.on('request', (request: IncomingMessage, response: ServerResponse) => {
    record(request);
    const [, owner, name, ...path] = (request.url ?? '').split('/');
    const file = hub.repositories.get(`${owner}/${name}`)?.get(decodeURIComponent(path.join('/')));
    if (file === undefined) response.writeHead(404).end();
    else void send(hub, request, response, file.bytes);
  });
  return hub;
}

async function send(hub: MockHub, request: IncomingMessage, response: ServerResponse, bytes: Buffer): Promise<void> {
  const start = hub.ignoresRanges ? 0 : Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  const headers = { 'content-length': bytes.length - start };
  if (start === 0) response.writeHead(200, headers);
  else response.writeHead(206, { ...headers, 'content-range': `bytes ${start}-${bytes.length - 1}/${bytes.length}` });
  const cutAt = start + (hub.cuts.shift() ?? Number.POSITIVE_INFINITY);
  for (let at = start; at < bytes.length; at += pieceBytes) {
    if (at > start) await hub.gate;
    const end = Math.min(at + pieceBytes, bytes.length, cutAt);
    await new Promise((done) => response.write(bytes.subarray(at, end), done));
    if (end === cutAt) {
      response.destroy();
      return;
    }
  }
  response.end();
}

function apiReply(files: ReadonlyMap<string, MockFile>): object {
  const siblings = [...files].map(([rfilename, { bytes, isSmall, claimedSha256 }]) => {
    const blobId = createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
    const sha256 = claimedSha256 ?? createHash('sha256').update(bytes).digest('hex');
    return {
      rfilename,
      size: bytes.length,
      blobId,
      ...(isSmall ? {} : { lfs: { sha256, size: bytes.length, pointerSize: 130 } }),
    };
  });
  const sha = createHash('sha1').update(JSON.stringify(siblings)).digest('hex');
  return { id: 'any', sha, siblings };
}

async function listen(server: Server): Promise<string> {
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
