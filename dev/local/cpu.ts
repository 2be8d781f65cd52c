import { readdirSync, readFileSync } from 'node:fs';

/** Clock ticks a second in /proc; 100 on every Linux that Node runs on (man 5 proc, USER_HZ). */
const TICKS_PER_SECOND = 100;

/** Whether the operating system has the accounting that this file reads. Only Linux has it. */
export const hasCpuAccounting = process.platform === 'linux';

export interface Accounting {
  readonly parent: number;
  /** Ticks of the process and all its threads, user and system. */
  readonly own: number;
  /** Ticks of its children that have ended. */
  readonly endedChildren: number;
}

/** CPU time that a process has used so far, user and system, in µs, from the operating system's accounting. */
export function cpuMicros(pid: number): number {
  return micros(accountingOf(pid).own);
}

/**
 * The same with all its descendants, whether they run or have ended. PostgreSQL works in children for each connection, and Redis
 * rewrites its files in one.
 */
export function treeCpuMicros(pid: number): number {
  return micros([...treeOf(pid).values()].reduce((total, { own, endedChildren }) => total + own + endedChildren, 0));
}

/** The process and all its descendants that run, by their ids. */
export function treeOf(pid: number): ReadonlyMap<number, Accounting> {
  const all = new Map<number, Accounting>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      all.set(Number(name), accountingOf(Number(name)));
    } catch {
      // It has ended since the directory was read. Its parent has its ticks.
    }
  }
  const tree = new Map<number, Accounting>();
  const add = (id: number) => {
    if (all.has(id)) tree.set(id, all.get(id)!);
    for (const [child, { parent }] of all) if (parent === id) add(child);
  };
  add(pid);
  return tree;
}

function accountingOf(pid: number): Accounting {
  // The name in brackets may contain spaces; the fields after the last bracket do not.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)!.split(' ').map(Number);
  return { parent: fields[1]!, own: fields[11]! + fields[12]!, endedChildren: fields[13]! + fields[14]! };
}

function micros(ticks: number): number {
  return (ticks / TICKS_PER_SECOND) * 1e6;
}
