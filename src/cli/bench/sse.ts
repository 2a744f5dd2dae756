// Owns the parsing of server-sent events as the HTML standard writes them down; only `data` matters to this client.

/** Takes text as it arrives, cut anywhere, and calls `onData` once per event with its joined data lines. */
export class SseParser {
  readonly #onData: (data: string) => void;
  /** A line whose end has not arrived. */
  #rest = '';
  #data: string | null = null;

  constructor(onData: (data: string) => void) {
    this.#onData = onData;
  }

  push(text: string): void {
    const input = this.#rest === '' ? text : this.#rest + text;
    let start = 0;
    for (let end = input.indexOf('\n'); end !== -1; end = input.indexOf('\n', start)) {
      this.#line(input.slice(start, input.charCodeAt(end - 1) === 13 && end > start ? end - 1 : end));
      start = end + 1;
    }
    this.#rest = input.slice(start);
  }

  #line(line: string): void {
    if (line === '') {
      const data = this.#data;
      this.#data = null;
      if (data !== null) this.#onData(data);
    } else if (line.startsWith('data:')) {
      const value = line.slice(line[5] === ' ' ? 6 : 5);
      this.#data = this.#data === null ? value : `${this.#data}\n${value}`;
    } // comments (`: ping`) and other fields (`event:`, `id:`) carry nothing for us
  }
}
