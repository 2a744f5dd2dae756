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

const byteOfUnit = (() => {
  const bytes = new Int16Array(0x200).fill(-1);
  for (const [byte, char] of charOfByte.entries()) bytes[char.charCodeAt(0)] = byte;
  return bytes;
})();

/** The byte that a character of the alphabet, given as UTF-16 unit, stands for; -1 for other characters. */
export function byteOfChar(unit: number): number {
  return byteOfUnit[unit] ?? -1;
}
