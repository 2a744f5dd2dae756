// Owns GPT-2's alphabet: the printable character that stands for each byte in a byte-level vocabulary.

/**
 * Printable Latin-1 bytes stand for themselves, the other 68 for U+0100 upwards, in order.
 * Source: `bytes_to_unicode` in OpenAI's gpt-2 encoder.py.
 */
const printable = (byte: number) =>
  (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);

/** charOfByte[b]: the character for byte b. */
export const charOfByte: readonly string[] = (() => {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
})();

const byteOfChar = new Map(charOfByte.map((char, byte) => [char, byte]));

/** The bytes that a token of a byte-level vocabulary stands for; null where a character is not of the alphabet. */
export function bytesOfAlphabet(token: string): Uint8Array | null {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = byteOfChar.get(token.charAt(i));
    if (byte === undefined) return null;
    bytes[i] = byte;
  }
  return bytes;
}
