// Owns log lines: for people by default, JSON on request. Prompts and keys never reach it.

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent';
export type LogFields = Readonly<Record<string, string | number | boolean | null | undefined>>;

export interface Log {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
}

const ranks: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3, silent: 4 };

export interface LogOptions {
  readonly format: 'text' | 'json';
  readonly level: LogLevel;
  readonly write?: (line: string) => void;
  readonly nowIso?: () => string;
}

export function createLog(options: LogOptions): Log {
  const {
    format,
    level,
    write = (line) => process.stderr.write(line),
    nowIso = () => new Date().toISOString(),
  } = options;
  const at =
    (lineLevel: Exclude<LogLevel, 'silent'>) =>
    (message: string, fields: LogFields = {}) => {
      if (ranks[lineLevel] < ranks[level]) return;
      const time = nowIso();
      if (format === 'json') write(`${JSON.stringify({ time, level: lineLevel, message, ...fields })}\n`);
      else
        write(`${time.slice(11, 19)} ${lineLevel === 'info' ? '' : `${lineLevel} `}${message}${fieldsText(fields)}\n`);
    };
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}

function fieldsText(fields: LogFields): string {
  return Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(
      ([name, value]) => ` ${name}=${typeof value === 'number' && !Number.isInteger(value) ? value.toFixed(1) : value}`,
    )
    .join('');
}
