// Owns how native threads wake the event loop: a pipe, since a thread that ends a step cannot call into JavaScript.
import { Socket } from 'node:net';
import { invariant } from '../../common/errors.ts';
import { closeFd, createPipe, waitReadable } from '../ffi/libc.ts';

/** One byte comes through per step: the next one only after the last was taken. */
export class StepSignal {
  /** Where the thread that ends a step writes one byte. */
  readonly fd: number;
  readonly #readFd: number;
  readonly #socket: Socket;
  readonly #byte = new Uint8Array(1);
  #resolve: (() => void) | null = null;

  /** Throws SystemError when the system gives no descriptors. */
  constructor() {
    const [readFd, writeFd] = createPipe();
    this.fd = writeFd;
    this.#readFd = readFd;
    // Into memory of its own: a stream's chunks would be garbage of every step.
    const onread = {
      buffer: this.#byte,
      callback: () => {
        this.#arrived();
        return true;
      },
    };
    this.#socket = new Socket({ fd: readFd, readable: true, writable: false, onread });
    this.#socket.unref();
    this.#socket.read(0);
  }

  /** Resolves when the byte comes. Keeps the process alive until then. */
  wait(): Promise<void> {
    invariant(!this.#resolve, 'two wait for one step');
    this.#socket.ref();
    return new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  /** The same on the calling thread. */
  waitSync(): void {
    waitReadable(this.#readFd);
  }

  #arrived(): void {
    const resolve = this.#resolve;
    invariant(resolve, 'a step has ended that nobody waits for');
    this.#resolve = null;
    this.#socket.unref();
    resolve();
  }

  /** No thread may write afterwards. */
  close(): void {
    this.#socket.destroy();
    closeFd(this.fd);
  }
}
