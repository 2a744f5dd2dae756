// Owns receiving blocks from other hosts: a listener that opens when first needed, tickets, frames into pages.
import { randomBytes } from 'node:crypto';
import { createServer as createTcpServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { crc32 } from 'node:zlib';
import type { ContractSecurity } from '../../contract/grpc.ts';
import type { KvIntake } from './kv-transport.ts';
import { decodeHeader, type FrameHeader, HEADER_BYTES, TICKET_BYTES } from './tcp-frames.ts';

/** A connection that does not show its ticket in this time is closed. */
const TICKET_MS = 5_000;

export class TcpIntake {
  readonly #host: string;
  readonly #security: ContractSecurity;
  readonly #sockets = new Set<Socket>();
  /** By ticket (hex): used once, and forgotten with its pairing. */
  readonly #expected = new Map<string, KvIntake>();
  #server: Server | null = null;
  #listening: Promise<number> | null = null;

  /** `host`: where to listen, on a free port. */
  constructor(host: string, security: ContractSecurity) {
    this.#host = host;
    this.#security = security;
  }

  /** Where the intake's blocks are to be sent, and what the connection begins with. Rejects when it cannot listen. */
  async expect(intake: KvIntake): Promise<{ readonly port: number; readonly ticket: Buffer }> {
    const port = await this.#listen();
    const ticket = randomBytes(TICKET_BYTES);
    this.#expected.set(ticket.toString('hex'), intake);
    return { port, ticket };
  }

  /** Its connection, if there is one, is closed. */
  forget(intake: KvIntake): void {
    for (const [ticket, expected] of this.#expected) if (expected === intake) this.#expected.delete(ticket);
    for (const socket of this.#sockets) if (owners.get(socket) === intake) socket.destroy();
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
    // Its end, whatever brought it about, is seen by the pairing.
    socket.on('error', () => {});
    const reader = new FrameReader(socket, (ticket) => {
      clearTimeout(timer);
      const key = ticket.toString('hex');
      const intake = this.#expected.get(key);
      this.#expected.delete(key);
      if (intake) owners.set(socket, intake);
      return intake ?? null;
    });
    socket.on('data', (chunk: Buffer) => reader.take(chunk));
  }
}

const owners = new WeakMap<Socket, KvIntake>();

/** Cuts what arrives into ticket, headers and pages. Nothing is read on while a page waits for its place. */
class FrameReader {
  readonly #socket: Socket;
  readonly #open: (ticket: Buffer) => KvIntake | null;
  #intake: KvIntake | null = null;
  /** Of a ticket or a header, as far as it has come. */
  #head: Buffer = Buffer.alloc(0);
  #header: FrameHeader | null = null;
  /** Where the page goes; null: nowhere. */
  #target: Uint8Array | null = null;
  #numTaken = 0;
  #crc = 0;

  constructor(socket: Socket, open: (ticket: Buffer) => KvIntake | null) {
    this.#socket = socket;
    this.#open = open;
  }

  take(chunk: Buffer): void {
    let rest = chunk;
    while (rest.length > 0 && !this.#socket.destroyed) {
      rest = this.#header ? this.#takePayload(this.#header, rest) : this.#takeHead(rest);
    }
  }

  #takeHead(bytes: Buffer): Buffer {
    const wanted = this.#intake ? HEADER_BYTES : TICKET_BYTES;
    const numTaken = Math.min(wanted - this.#head.length, bytes.length);
    const head =
      this.#head.length === 0 ? bytes.subarray(0, numTaken) : Buffer.concat([this.#head, bytes.subarray(0, numTaken)]);
    const rest = bytes.subarray(numTaken);
    if (head.length < wanted) {
      this.#head = Buffer.from(head);
      return rest;
    }
    this.#head = Buffer.alloc(0);
    if (this.#intake) this.#begin(this.#intake, decodeHeader(head));
    else {
      this.#intake = this.#open(head);
      if (!this.#intake) this.#socket.destroy();
    }
    return rest;
  }

  #begin(intake: KvIntake, header: FrameHeader | null): void {
    if (!header) {
      this.#fail(intake, 'what arrived is no frame');
      return;
    }
    try {
      this.#target = intake.place(header, header.numBytes, header.digest);
    } catch (error) {
      this.#fail(intake, error instanceof Error ? error.message : String(error));
      return;
    }
    this.#header = header;
    this.#numTaken = 0;
    this.#crc = header.headerCrc;
  }

  #takePayload(header: FrameHeader, bytes: Buffer): Buffer {
    const numTaken = Math.min(header.numBytes - this.#numTaken, bytes.length);
    const part = bytes.subarray(0, numTaken);
    this.#crc = crc32(part, this.#crc);
    this.#target?.set(part, this.#numTaken);
    this.#numTaken += numTaken;
    if (this.#numTaken < header.numBytes) return bytes.subarray(numTaken);
    this.#header = null;
    const [intake, target] = [this.#intake, this.#target];
    this.#target = null;
    if (intake && this.#crc !== header.crc)
      this.#fail(intake, `block ${header.block} arrived with other bytes than were sent`);
    else if (intake && target) intake.placed(header, header.digest);
    return bytes.subarray(numTaken);
  }

  #fail(intake: KvIntake, message: string): void {
    this.#socket.destroy();
    intake.failed(new Error(message));
  }
}
