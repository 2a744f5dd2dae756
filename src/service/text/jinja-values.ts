// Owns Python's view of template values: how they print, when they are equal, what str's stripping methods do.

/**
 * A value of @huggingface/jinja at run time. `value`: a string, number or boolean, an array or a Map of values; nothing
 * to go by for null and undefined.
 */
export interface JinjaValue {
  readonly type: string;
  readonly value: unknown;
  toString(): string;
}

/** Python's `str()`. */
export function pythonString(value: JinjaValue): string {
  return value.type === 'StringValue' ? (value.value as string) : pythonRepr(value);
}

/** Python's `repr()`; undefined, which Jinja prints as nothing, is ''. */
function pythonRepr(given: JinjaValue): string {
  const { type, value } = given;
  if (type === 'NullValue') return 'None';
  if (type === 'UndefinedValue') return '';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (typeof value === 'string') return quoted(value);
  if (typeof value === 'number') return given.toString();
  if (Array.isArray(value)) {
    const items = value.map(pythonRepr);
    if (type === 'TupleValue') return items.length === 1 ? `(${items[0]},)` : `(${items.join(', ')})`;
    return `[${items.join(', ')}]`;
  }
  if (value instanceof Map) {
    const entries = [...(value as ReadonlyMap<string, JinjaValue>)];
    return `{${entries.map(([key, item]) => `${quoted(key)}: ${pythonRepr(item)}`).join(', ')}}`;
  }
  return `<${type}>`;
}

const escapes: Readonly<Record<string, string>> = { '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t' };

/** Python prefers single quotes, and takes double ones where that saves escaping. */
function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  // Control characters other than the named ones print as \xNN.
  // oxlint-disable-next-line no-control-regex
  const body = text.replace(/[\\\n\r\t\x00-\x1f\x7f]/g, (unit) => {
    return escapes[unit] ?? `\\x${unit.charCodeAt(0).toString(16).padStart(2, '0')}`;
  });
  return quote + body.replaceAll(quote, `\\${quote}`) + quote;
}

/** Python's `==`: numbers and booleans compare by value, containers by content, other kinds only with their own. */
export function pythonEquals(a: JinjaValue, b: JinjaValue): boolean {
  const [x, y] = [a.value, b.value];
  if (isNumeric(x) && isNumeric(y)) return Number(x) === Number(y);
  if (Array.isArray(x) && Array.isArray(y)) {
    return x.length === y.length && x.every((item, i) => pythonEquals(item, y[i]));
  }
  if (x instanceof Map && y instanceof Map) {
    return x.size === y.size && [...x].every(([key, item]) => y.has(key) && pythonEquals(item, y.get(key)));
  }
  return x === y && a.type === b.type;
}

const isNumeric = (value: unknown) => typeof value === 'number' || typeof value === 'boolean';

/** Python's strip(chars), lstrip(chars), rstrip(chars); white space where `chars` is null. */
export function pythonStrip(text: string, side: 'strip' | 'lstrip' | 'rstrip', chars: string | null): string {
  const all = Array.from(text);
  const drops = chars === null ? (unit: string) => /\s/u.test(unit) : (unit: string) => chars.includes(unit);
  let start = 0;
  let end = all.length;
  if (side !== 'rstrip') while (start < end && drops(all[start] ?? '')) start++;
  if (side !== 'lstrip') while (end > start && drops(all[end - 1] ?? '')) end--;
  return all.slice(start, end).join('');
}
