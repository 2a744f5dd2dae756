// Owns how native threads wake the event loop: a pipe, since a thread that ends a step cannot call into JavaScript.
import { Socket } from 'node:net';
import { invariant } from '../../common/errors.ts';
import { closeFd, createPipe, waitReadable } from '../ffi/libc.ts';

/** A byte comes through for each step that ends. */
export class StepSignal {
  /** Where the thread that ends a step writes one byte. */
  readonly fd: number;
  readonly #readFd: number;
  readonly #socket: Socket;
  /** Oldest first. */
  readonly #waiting: (() => void)[] = [];

  /** Throws SystemError when the system gives no descriptors. */
  constructor() {
    const [readFd, writeFd] = createPipe();
    this.fd = writeFd;
    this.#readFd = readFd;
    // Into memory of its own: a stream's chunks would be garbage of every step.
    const onread = {
      buffer: new Uint8Array(16),
      callback: (numBytes: number) => {
        for (let i = 0; i < numBytes; i++) this.#arrived();
        return true;
      },
    };
    this.#socket = new Socket({ fd: readFd, readable: true, writable: false, onread });
    this.#socket.unref();
    this.#socket.read(0);
  }

  /** Resolves when the next byte comes that nobody else waits for. Keeps the process alive until then. */
  wait(): Promise<void> {
    this.#socket.ref();
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
    });
  }

  /** The same on the calling thread. */
  waitSync(): void {
    waitReadable(this.#readFd);
  }

  #arrived(): void {
    const resolve = this.#waiting.shift();
    invariant(resolve, 'a step has ended that nobody waits for');
    if (this.#waiting.length === 0) this.#socket.unref();
    resolve();
  }

  /** No thread may write afterwards. */
  close(): void {
    this.#socket.destroy();
    closeFd(this.fd);
  }
}
