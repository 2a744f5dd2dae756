// Owns one event stream to one client: headers, events, pings, and what happens when the client reads slowly.
import type { ServerResponse } from 'node:http';
import type { StreamLimits } from './limits.ts';

export interface SseEvents {
  /** The client is more than `slowBytes` behind: produce nothing until `onCaughtUp`. */
  onBehind(): void;
  onCaughtUp(): void;
  /** It stayed behind for `slowMs`: the connection is gone. */
  onStuck(): void;
}

export class SseStream {
  readonly #raw: ServerResponse;
  readonly #limits: StreamLimits;
  readonly #events: SseEvents;
  readonly #ping: NodeJS.Timeout;
  #stuck: NodeJS.Timeout | null = null;

  /** Sends the headers at once. `raw` must be the hijacked reply's. */
  constructor(raw: ServerResponse, headers: Readonly<Record<string, string>>, limits: StreamLimits, events: SseEvents) {
    this.#raw = raw;
    this.#limits = limits;
    this.#events = events;
    raw.writeHead(200, {
      ...headers,
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      // nginx buffers replies unless told not to.
      'x-accel-buffering': 'no',
    });
    raw.flushHeaders();
    this.#ping = setTimeout(() => {
      this.#write(': ping\n\n');
    }, limits.pingMs);
    raw.on('drain', () => this.#caughtUp());
    raw.once('close', () => this.#stopTimers());
  }

  send(event: object): void {
    this.#write(`data: ${JSON.stringify(event)}\n\n`);
  }

  /** `last`: data of the last event. */
  end(last: string): void {
    this.#write(`data: ${last}\n\n`);
    clearTimeout(this.#ping);
    this.#raw.end();
    // What is still unsent must not keep the connection for ever; one that has gone needs no watching.
    if (!this.#raw.writableFinished && !this.#raw.destroyed) this.#armStuck();
  }

  #write(chunk: string): void {
    if (this.#raw.destroyed || this.#raw.writableEnded) return;
    this.#raw.write(chunk);
    this.#ping.refresh();
    if (this.#stuck === null && this.#raw.writableLength > this.#limits.slowBytes) {
      this.#armStuck();
      this.#events.onBehind();
    }
  }

  #caughtUp(): void {
    if (this.#stuck === null) return;
    clearTimeout(this.#stuck);
    this.#stuck = null;
    this.#events.onCaughtUp();
  }

  #armStuck(): void {
    this.#stuck ??= setTimeout(() => {
      this.#events.onStuck();
      this.#raw.destroy();
    }, this.#limits.slowMs);
  }

  #stopTimers(): void {
    clearTimeout(this.#ping);
    if (this.#stuck) clearTimeout(this.#stuck);
  }
}
