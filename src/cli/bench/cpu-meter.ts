// Owns the question whether a sample was disturbed: how much CPU others used while it was taken.
import { readdirSync, readFileSync } from 'node:fs';

/** Linux reports times to processes in hundredths of a second (USER_HZ), whatever the kernel's own tick. */
const TICKS_PER_S = 100;

/** Ticks of all cores in use by anyone, a hypervisor's theft included. `text`: /proc/stat. */
export function busyTicks(text: string): number {
  const fields = /^cpu +(.*)$/m.exec(text)?.[1]?.split(' ').map(Number);
  if (fields === undefined) throw new Error('/proc/stat has no cpu line');
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = fields; // idle and iowait left out
  return user + nice + system + irq + softirq + steal;
}

export interface ProcessTicks {
  readonly pid: number;
  readonly parent: number;
  /** Own time and that of ended children. */
  readonly ticks: number;
}

/** `text`: /proc/PID/stat. Its second field, the name, may hold spaces and parentheses. */
export function parseProcessStat(text: string): ProcessTicks {
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const field = (number: number): number => Number(fields[number - 3]); // numbered as in proc(5); the rest starts at 3
  return { pid: Number.parseInt(text, 10), parent: field(4), ticks: field(14) + field(15) + field(16) + field(17) };
}

/** Ticks of a process and all its descendants. */
export function treeTicks(processes: readonly ProcessTicks[], root: number): number {
  const children = Map.groupBy(processes, (entry) => entry.parent);
  const sum = (entry: ProcessTicks): number =>
    (children.get(entry.pid) ?? []).reduce((total, child) => total + sum(child), entry.ticks);
  const entry = processes.find(({ pid }) => pid === root);
  return entry === undefined ? 0 : sum(entry);
}

function readProcesses(): ProcessTicks[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.flatMap((pid) => {
    try {
      return [parseProcessStat(readFileSync(`/proc/${pid}/stat`, 'utf8'))];
    } catch {
      return []; // it ended meanwhile
    }
  });
}

/** Measures from construction to `foreignCores()`. */
export class CpuMeter {
  readonly #startMs = performance.now();
  readonly #foreignTicks = CpuMeter.#foreign();

  static #foreign(): number {
    return busyTicks(readFileSync('/proc/stat', 'utf8')) - treeTicks(readProcesses(), process.pid);
  }

  /** Cores that others kept busy, on average: everything but this process and its descendants. Never below 0. */
  foreignCores(): number {
    const seconds = (performance.now() - this.#startMs) / 1000;
    return Math.max(0, (CpuMeter.#foreign() - this.#foreignTicks) / TICKS_PER_S / seconds);
  }
}
