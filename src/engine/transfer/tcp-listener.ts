// Owns where targets on other hosts fetch blocks: a listener that opens when first needed, and a ticket for each of them.
import { randomBytes, timingSafeEqual } from 'node:crypto';
import { createServer as createTcpServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import type { ContractSecurity } from '../../contract/grpc.ts';
import { TICKET_BYTES } from './tcp-frames.ts';

/*
 * The target connects, and the source listens: Node lets only the connecting side choose the buffer that it reads into,
 * and reading is what takes the time.
 */

/** A connection that does not show its ticket in this time is closed. */
const TICKET_MS = 5_000;

interface Expected {
  readonly ticket: Buffer;
  readonly resolve: (socket: Socket) => void;
}

export interface ExpectedSocket {
  readonly port: number;
  readonly ticket: Uint8Array;
  readonly socket: Promise<Socket>;
  /** Nobody is expected any more. */
  readonly forget: () => void;
}

export class TcpListener {
  readonly #host: string;
  readonly #security: ContractSecurity;
  readonly #sockets = new Set<Socket>();
  /** Each ticket is good for one connection. */
  readonly #expected = new Set<Expected>();
  #server: Server | null = null;
  #listening: Promise<number> | null = null;

  /** `host`: where to listen, on a free port. */
  constructor(host: string, security: ContractSecurity) {
    this.#host = host;
    this.#security = security;
  }

  /** Rejects when it cannot listen. */
  async expect(): Promise<ExpectedSocket> {
    const port = await this.#listen();
    const { promise, resolve } = Promise.withResolvers<Socket>();
    const expected = { ticket: randomBytes(TICKET_BYTES), resolve };
    this.#expected.add(expected);
    return { port, ticket: expected.ticket, socket: promise, forget: () => this.#expected.delete(expected) };
  }

  close(): void {
    this.#server?.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #listen(): Promise<number> {
    this.#listening ??= new Promise((resolve, reject) => {
      const { cert, key } = this.#security;
      const onConnection = (socket: Socket) => this.#accept(socket);
      const server =
        cert && key ? createTlsServer({ cert, key }, onConnection) : createTcpServer({ noDelay: true }, onConnection);
      this.#server = server;
      server.once('error', reject);
      server.listen(0, this.#host, () => {
        const address = server.address();
        if (address === null || typeof address === 'string') reject(new Error('it listens at no port'));
        else resolve(address.port);
      });
      server.unref();
    });
    return this.#listening;
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket);
    const timer = setTimeout(() => socket.destroy(), TICKET_MS).unref();
    socket.on('close', () => {
      clearTimeout(timer);
      this.#sockets.delete(socket);
    });
    // Its end, whatever brought it about, is seen by the transport.
    socket.on('error', () => {});
    let shown: Buffer = Buffer.alloc(0);
    socket.on('data', (chunk: Buffer) => {
      shown = Buffer.concat([shown, chunk]);
      if (shown.length < TICKET_BYTES) return;
      clearTimeout(timer);
      // A target says nothing more.
      const found = [...this.#expected].find(
        ({ ticket }) => shown.length === TICKET_BYTES && timingSafeEqual(ticket, shown),
      );
      if (found) {
        this.#expected.delete(found);
        found.resolve(socket);
      } else socket.destroy();
    });
  }
}
