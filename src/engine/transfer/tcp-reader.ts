// Owns fetching blocks from another host: connects, shows its ticket, and cuts what comes into headers and pages.
import { connect as connectTcp, type Socket, type TcpNetConnectOpts } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { crc32 } from 'node:zlib';
import type { ContractSecurity } from '../../contract/grpc.ts';
import type { KvIntake } from './kv-transport.ts';
import { decodeHeader, type FrameHeader, HEADER_BYTES } from './tcp-frames.ts';

export interface BlockSource {
  /** `host:port` */
  readonly address: string;
  readonly ticket: Uint8Array;
  readonly security: ContractSecurity;
}

/** Read at one time: one buffer for the life of the connection, instead of a new one for each piece. */
const READ_BYTES = 1 << 20;

export class TcpReader {
  readonly #socket: Socket;
  readonly #intake: KvIntake;
  /** Of a header, as far as it has come. */
  readonly #head = Buffer.alloc(HEADER_BYTES);
  #numHead = 0;
  #header: FrameHeader | null = null;
  /** Where the page goes; null: nowhere. */
  #target: Uint8Array | null = null;
  #numTaken = 0;
  #crc = 0;

  /** `onConnected`: from now on blocks come. A connection that fails or ends is told to the intake. */
  constructor({ address, ticket, security }: BlockSource, intake: KvIntake, onConnected: () => void) {
    this.#intake = intake;
    const colon = address.lastIndexOf(':');
    const to: TcpNetConnectOpts = {
      host: address.slice(0, colon).replace(/^\[|\]$/g, ''),
      port: Number(address.slice(colon + 1)),
      onread: {
        buffer: Buffer.alloc(READ_BYTES),
        callback: (numBytes, buffer) => {
          this.take(buffer.subarray(0, numBytes));
          return true;
        },
      },
    };
    this.#socket = security.ca ? connectTls({ ...to, ca: security.ca }) : connectTcp(to);
    this.#socket.once(security.ca ? 'secureConnect' : 'connect', () => {
      this.#socket.write(ticket, onConnected);
    });
    this.#socket.on('error', (error) => this.#fail(error.message));
    this.#socket.on('close', () => this.#fail('the source closed the connection for blocks'));
  }

  close(): void {
    this.#socket.destroy();
  }

  take(bytes: Uint8Array): void {
    let rest = bytes;
    while (rest.length > 0 && !this.#socket.destroyed) {
      rest = this.#header ? this.#takePayload(this.#header, rest) : this.#takeHead(rest);
    }
  }

  #takeHead(bytes: Uint8Array): Uint8Array {
    const numTaken = Math.min(HEADER_BYTES - this.#numHead, bytes.length);
    this.#head.set(bytes.subarray(0, numTaken), this.#numHead);
    this.#numHead += numTaken;
    if (this.#numHead < HEADER_BYTES) return bytes.subarray(numTaken);
    this.#numHead = 0;
    const header = decodeHeader(this.#head);
    if (!header) this.#fail('what arrived is no frame');
    else this.#begin(header);
    return bytes.subarray(numTaken);
  }

  #begin(header: FrameHeader): void {
    try {
      this.#target = this.#intake.place(header, header.numBytes, header.digest);
    } catch (error) {
      this.#fail(error instanceof Error ? error.message : String(error));
      return;
    }
    this.#header = header;
    this.#numTaken = 0;
    this.#crc = header.headerCrc;
  }

  #takePayload(header: FrameHeader, bytes: Uint8Array): Uint8Array {
    const numTaken = Math.min(header.numBytes - this.#numTaken, bytes.length);
    const part = bytes.subarray(0, numTaken);
    this.#crc = crc32(part, this.#crc);
    this.#target?.set(part, this.#numTaken);
    this.#numTaken += numTaken;
    if (this.#numTaken < header.numBytes) return bytes.subarray(numTaken);
    const target = this.#target;
    this.#header = this.#target = null;
    if (this.#crc !== header.crc) this.#fail(`block ${header.block} arrived with other bytes than were sent`);
    else if (target) this.#intake.placed(header, header.digest);
    return bytes.subarray(numTaken);
  }

  #fail(message: string): void {
    this.#socket.destroy();
    this.#intake.failed(new Error(message));
  }
}
