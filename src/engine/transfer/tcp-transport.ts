// Owns sending blocks to another host: one connection per pairing, frames in order, never more written than is taken.
import type { Socket } from 'node:net';
import type { KvTransport, PushedBlock } from './kv-transport.ts';
import { encodeHeader } from './tcp-frames.ts';

export interface TcpTransportOptions {
  /** The target's connection. */
  readonly socket: Socket;
  readonly view: (group: number, page: number) => Uint8Array;
  /** The connection has failed, or the target has closed it. */
  readonly onBroken: (reason: string) => void;
}

/** Bytes that may wait in the socket: enough to keep it busy. */
const HIGH_WATER_BYTES = 4 << 20;

export class TcpTransport implements KvTransport {
  readonly lends = false;
  readonly #socket: Socket;
  readonly #view: TcpTransportOptions['view'];
  #failure: Error | null = null;
  #isClosed = false;
  readonly #waiting: (() => void)[] = [];
  /** Pushes go one after the other. */
  #last: Promise<void> = Promise.resolve();

  constructor({ socket, view, onBroken }: TcpTransportOptions) {
    this.#socket = socket;
    this.#view = view;
    const broken = (error: Error) => {
      if (this.#isClosed || this.#failure) return;
      this.#failure = error;
      this.#wakeAll();
      onBroken(error.message);
    };
    this.#socket.on('error', broken);
    this.#socket.on('close', () => broken(new Error('the target closed the connection for blocks')));
  }

  push(blocks: readonly PushedBlock[]): Promise<void> {
    const pushed = this.#last.then(() => this.#writeAll(blocks));
    // The next push begins when this one's frames are queued, and does not wait until they are written.
    this.#last = pushed.then(
      () => {},
      () => {},
    );
    return pushed.then((written) => written.done);
  }

  close(): void {
    this.#isClosed = true;
    this.#failure ??= new Error('the pairing is over');
    this.#wakeAll();
    this.#socket.destroy();
  }

  /** Queues the frames, as the socket takes them. In an object: what is awaited is not to be awaited here. */
  async #writeAll(blocks: readonly PushedBlock[]): Promise<{ readonly done: Promise<void> }> {
    // Of a stream's writes the last ends after all before it.
    let done: Promise<void> = Promise.resolve();
    for (const block of blocks) {
      if (this.#failure) throw this.#failure;
      const bytes = this.#view(block.group, block.page);
      this.#socket.cork();
      this.#socket.write(encodeHeader(block, bytes));
      done = this.#write(bytes);
      this.#socket.uncork();
      // Who awaits it hears of a failure.
      done.catch(() => {});
      while (this.#socket.writableLength > HIGH_WATER_BYTES && !this.#failure) await this.#drained();
    }
    return { done };
  }

  /** Resolves when some of what waits has been written, or the connection has failed. */
  #drained(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
    });
  }

  #write(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.write(bytes, (error) => {
        if (error) reject(error);
        else resolve();
        this.#wakeAll();
      });
    });
  }

  #wakeAll(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
