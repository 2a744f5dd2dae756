// Owns sending blocks to another host: one connection per pairing, frames in order, never more written than is taken.
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import type { ContractSecurity } from '../../contract/grpc.ts';
import type { KvTransport, PushedBlock } from './kv-transport.ts';
import { encodeHeader } from './tcp-frames.ts';

export interface TcpTransportOptions {
  /** `host:port` */
  readonly address: string;
  readonly ticket: Uint8Array;
  readonly security: ContractSecurity;
  readonly view: (group: number, page: number) => Uint8Array;
  /** The connection has failed, or the target has closed it. */
  readonly onBroken: (reason: string) => void;
}

/** Bytes that may wait in the socket: enough to keep it busy. */
const HIGH_WATER_BYTES = 1 << 20;

export class TcpTransport implements KvTransport {
  readonly lends = false;
  readonly #socket: Socket;
  readonly #view: TcpTransportOptions['view'];
  #failure: Error | null = null;
  #isClosed = false;
  /** Pushes go one after the other. */
  #last: Promise<void> = Promise.resolve();

  constructor({ address, ticket, security, view, onBroken }: TcpTransportOptions) {
    const colon = address.lastIndexOf(':');
    const to = { host: address.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(address.slice(colon + 1)) };
    this.#socket = security.ca ? connectTls({ ...to, ca: security.ca }) : connectTcp(to);
    this.#view = view;
    this.#socket.setNoDelay(true);
    this.#socket.write(ticket);
    const broken = (error: Error) => {
      if (this.#isClosed || this.#failure) return;
      this.#failure = error;
      onBroken(error.message);
    };
    this.#socket.on('error', broken);
    this.#socket.on('close', () => broken(new Error('the target closed the connection for blocks')));
    // The target has nothing to say.
    this.#socket.resume();
  }

  push(blocks: readonly PushedBlock[]): Promise<void> {
    const pushed = this.#last.then(() => this.#pushAll(blocks));
    // Who waits for this one hears of its failure; the next one fails for itself.
    this.#last = pushed.catch(() => {});
    return pushed;
  }

  close(): void {
    this.#isClosed = true;
    this.#socket.destroy();
  }

  async #pushAll(blocks: readonly PushedBlock[]): Promise<void> {
    let written: Promise<void> = Promise.resolve();
    for (const block of blocks) {
      if (this.#failure) throw this.#failure;
      const bytes = this.#view(block.group, block.page);
      this.#socket.cork();
      this.#socket.write(encodeHeader(block, bytes));
      written = this.#write(bytes);
      this.#socket.uncork();
      // The page is the socket's until it is written: the last write ends after all before it.
      if (this.#socket.writableLength > HIGH_WATER_BYTES) await written;
      else written.catch(() => {});
    }
    await written;
  }

  #write(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.write(bytes, (error) => {
        if (error) reject(error);
        else resolve();
      });
    });
  }
}
