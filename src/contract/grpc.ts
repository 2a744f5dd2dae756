// Owns the bridge between protobuf-es descriptors and grpc-js: typed handlers on one side, typed calls on the other.
import { timingSafeEqual } from 'node:crypto';
import { type DescMessage, fromBinary, type MessageShape, toBinary } from '@bufbuild/protobuf';
import type { GenService, GenServiceMethods } from '@bufbuild/protobuf/codegenv2';
import * as grpc from '@grpc/grpc-js';
import { type Address, channelOptions } from './protocol.ts';

type In<M> = M extends { input: infer I extends DescMessage } ? MessageShape<I> : never;
type Out<M> = M extends { output: infer O extends DescMessage } ? MessageShape<O> : never;

/** How the two ends of a connection know each other. Nothing: whoever can reach the address may call. */
export interface ContractSecurity {
  /** Shared by every process of a cluster; sent with each call as `authorization: Bearer TOKEN`. */
  readonly token?: string | undefined;
  /** PEM. A server needs both, a client neither. */
  readonly cert?: Buffer | undefined;
  readonly key?: Buffer | undefined;
  /** PEM of the authority that signed the server's certificate: what makes a client use TLS. */
  readonly ca?: Buffer | undefined;
}

/** What a streaming handler writes to. */
export interface ReplyStream<T> {
  /** False when the peer reads too slowly: bytes pile up until it drains. */
  write(message: T): boolean;
  end(): void;
  readonly cancelled: boolean;
  onClose(listener: () => void): void;
}

type Handler<M> = M extends { methodKind: 'unary' }
  ? (request: In<M>) => Promise<Out<M>> | Out<M>
  : M extends { methodKind: 'server_streaming' }
    ? (request: In<M>, stream: ReplyStream<Out<M>>) => void
    : M extends { methodKind: 'bidi_streaming' }
      ? (requests: { onMessage(listener: (request: In<M>) => void): void }, stream: ReplyStream<Out<M>>) => void
      : never;

export type Handlers<S extends GenServiceMethods> = { readonly [K in keyof S]: Handler<S[K]> };

function definitionOf<S extends GenServiceMethods>(service: GenService<S>): grpc.ServiceDefinition {
  const definition: Record<string, grpc.MethodDefinition<object, object>> = {};
  for (const method of service.methods) {
    definition[method.localName] = {
      path: `/${service.typeName}/${method.name}`,
      requestStream: method.methodKind === 'client_streaming' || method.methodKind === 'bidi_streaming',
      responseStream: method.methodKind === 'server_streaming' || method.methodKind === 'bidi_streaming',
      requestSerialize: (message) => Buffer.from(toBinary(method.input, message as never)),
      requestDeserialize: (bytes) => fromBinary(method.input, bytes),
      responseSerialize: (message) => Buffer.from(toBinary(method.output, message as never)),
      responseDeserialize: (bytes) => fromBinary(method.output, bytes),
    };
  }
  return definition;
}

function replyStream<T>(
  call: grpc.ServerWritableStream<object, object> | grpc.ServerDuplexStream<object, object>,
): ReplyStream<T> {
  let closed = false;
  let ended = false;
  const listeners: (() => void)[] = [];
  const close = () => {
    if (closed) return;
    closed = true;
    for (const listener of listeners) listener();
  };
  call.on('cancelled', close);
  call.on('close', close);
  call.on('error', close);
  return {
    write: (message) => !closed && !ended && call.write(message as object),
    end: () => {
      ended = true;
      call.end();
    },
    get cancelled() {
      return closed;
    },
    onClose: (listener) => {
      if (closed) listener();
      else listeners.push(listener);
    },
  };
}

/** A gRPC server. `listen` resolves with the bound address (a port of 0 is replaced by the real one). */
export class ContractServer {
  readonly #server = new grpc.Server(channelOptions);
  readonly #security: ContractSecurity;
  /** Open ones. */
  readonly #streams = new Set<ReplyStream<unknown>>();

  constructor(security: ContractSecurity = {}) {
    this.#security = security;
  }

  add<S extends GenServiceMethods>(service: GenService<S>, handlers: Handlers<S>): void {
    const untyped = handlers as unknown as Record<string, (...args: unknown[]) => unknown>;
    const implementation: grpc.UntypedServiceImplementation = {};
    for (const method of service.methods) {
      const handler = untyped[method.localName];
      if (!handler) throw new Error(`no handler for ${method.name}`);
      if (method.methodKind === 'unary') {
        implementation[method.localName] = (
          call: grpc.ServerUnaryCall<object, object>,
          callback: grpc.sendUnaryData<object>,
        ) => {
          if (!this.#isKnown(call.metadata)) {
            callback(unauthenticated);
            return;
          }
          Promise.resolve()
            .then(() => handler(call.request))
            .then(
              (reply) => callback(null, reply as object),
              (error: unknown) => callback({ code: grpc.status.INTERNAL, details: messageOf(error) }),
            );
        };
      } else if (method.methodKind === 'server_streaming') {
        implementation[method.localName] = (call: grpc.ServerWritableStream<object, object>) => {
          if (this.#isKnown(call.metadata)) handler(call.request, this.#open(call));
          else call.emit('error', unauthenticated);
        };
      } else {
        implementation[method.localName] = (call: grpc.ServerDuplexStream<object, object>) => {
          if (!this.#isKnown(call.metadata)) {
            call.emit('error', unauthenticated);
            return;
          }
          call.on('end', () => call.end());
          handler({ onMessage: (listener: (request: unknown) => void) => call.on('data', listener) }, this.#open(call));
        };
      }
    }
    this.#server.addService(definitionOf(service), implementation);
  }

  /** Rejects when the address is taken or cannot be bound. */
  listen(address: Address): Promise<Address> {
    return new Promise((resolve, reject) => {
      this.#server.bindAsync(address, this.#credentials(address), (error, port) => {
        if (error) reject(error);
        else resolve(address.startsWith('unix:') ? address : address.replace(/:\d+$/, `:${port}`));
      });
    });
  }

  /** Ends every stream after what was written to it, waits until all has arrived, and no longer than `graceMs`. */
  async closeGently(graceMs: number): Promise<void> {
    for (const stream of this.#streams) stream.end();
    const { promise: closed, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, graceMs);
    this.#server.tryShutdown(() => resolve());
    await closed;
    clearTimeout(timer);
    this.close();
  }

  /** Ends every connection at once. */
  close(): void {
    this.#server.forceShutdown();
  }

  #open(call: Parameters<typeof replyStream>[0]): ReplyStream<unknown> {
    const stream = replyStream<unknown>(call);
    this.#streams.add(stream);
    stream.onClose(() => this.#streams.delete(stream));
    return stream;
  }

  #credentials(address: Address): grpc.ServerCredentials {
    const { cert, key } = this.#security;
    // A unix socket is private by its folder.
    if (!cert || !key || address.startsWith('unix:')) return grpc.ServerCredentials.createInsecure();
    return grpc.ServerCredentials.createSsl(null, [{ cert_chain: cert, private_key: key }]);
  }

  #isKnown(metadata: grpc.Metadata): boolean {
    const { token } = this.#security;
    if (token === undefined) return true;
    const given = Buffer.from(String(metadata.get('authorization')[0] ?? ''));
    const wanted = Buffer.from(bearer(token));
    return given.length === wanted.length && timingSafeEqual(given, wanted);
  }
}

const unauthenticated = {
  code: grpc.status.UNAUTHENTICATED,
  details: 'the cluster token is missing or wrong: give both sides the same --cluster-token-file',
};

const bearer = (token: string) => `Bearer ${token}`;

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** A server stream as its reader sees it. */
export interface StreamHandle {
  cancel(): void;
}

/** Messages flow one way, until `end`. */
export interface DuplexHandle<T> extends StreamHandle {
  write(message: T): void;
}

type MethodOf<S extends GenServiceMethods, Kind extends string> = {
  [K in keyof S]: S[K] extends { methodKind: Kind } ? K : never;
}[keyof S];

/** The client type of a generated service. */
export type ClientOf<T> = T extends GenService<infer S> ? ContractClient<S> : never;

/** A typed gRPC client of one service at one address. */
export class ContractClient<S extends GenServiceMethods> {
  readonly #client: grpc.Client;
  readonly #definition: grpc.ServiceDefinition;
  readonly #token: string | undefined;

  constructor(service: GenService<S>, address: Address, { token, ca }: ContractSecurity = {}) {
    this.#definition = definitionOf(service);
    this.#token = token;
    // A unix socket is private by its folder.
    const isSecure = ca !== undefined && !address.startsWith('unix:');
    const credentials = isSecure ? grpc.credentials.createSsl(ca) : grpc.credentials.createInsecure();
    this.#client = new grpc.Client(address, credentials, channelOptions);
  }

  #metadata(): grpc.Metadata {
    const metadata = new grpc.Metadata();
    if (this.#token !== undefined) metadata.set('authorization', bearer(this.#token));
    return metadata;
  }

  #method(name: keyof S): grpc.MethodDefinition<object, object> {
    const method = this.#definition[name as string];
    if (!method) throw new Error(`no method ${String(name)}`);
    return method as grpc.MethodDefinition<object, object>;
  }

  /** Rejects with a grpc ServiceError; every call has a deadline. */
  call<K extends MethodOf<S, 'unary'>>(name: K, request: In<S[K]>, deadlineMs: number): Promise<Out<S[K]>> {
    const method = this.#method(name);
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request as object,
        this.#metadata(),
        { deadline: Date.now() + deadlineMs },
        (error, reply) => {
          if (error) reject(error);
          else resolve(reply as Out<S[K]>);
        },
      );
    });
  }

  /** `onEnd` is called exactly once, with the error if there was one (cancelling counts as no error). */
  stream<K extends MethodOf<S, 'server_streaming'>>(
    name: K,
    request: In<S[K]>,
    onMessage: (message: Out<S[K]>) => void,
    onEnd: (error: Error | null) => void,
  ): StreamHandle {
    const method = this.#method(name);
    const call = this.#client.makeServerStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request as object,
      this.#metadata(),
    );
    return bind(call, onMessage as (message: object) => void, onEnd);
  }

  duplex<K extends MethodOf<S, 'bidi_streaming'>>(
    name: K,
    onMessage: (message: Out<S[K]>) => void,
    onEnd: (error: Error | null) => void,
  ): DuplexHandle<In<S[K]>> {
    const method = this.#method(name);
    const call = this.#client.makeBidiStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      this.#metadata(),
    );
    return {
      ...bind(call, onMessage as (message: object) => void, onEnd),
      write: (message) => {
        call.write(message as object);
      },
    };
  }

  close(): void {
    this.#client.close();
  }
}

function bind(
  call: grpc.ClientReadableStream<object> | grpc.ClientDuplexStream<object, object>,
  onMessage: (message: object) => void,
  onEnd: (error: Error | null) => void,
): StreamHandle {
  let ended = false;
  let cancelled = false;
  const end = (error: Error | null) => {
    if (ended) return;
    ended = true;
    onEnd(cancelled ? null : error);
  };
  call.on('data', onMessage);
  call.on('error', end);
  call.on('end', () => end(null));
  return {
    cancel: () => {
      cancelled = true;
      call.cancel();
    },
  };
}
