import { readFileSync } from 'node:fs';
import { readLedger } from '../dev/audit.ts';
import { freePort } from '../dev/local/ports.ts';
import { stopOnSignal } from '../dev/local/processes.ts';
import { startStack } from '../dev/stack.ts';
import type { Target } from './target.ts';

/** One API node and one worker as plain processes, without limits and without Docker. */
export async function startLocalTarget(): Promise<Target> {
  const stack = await startStack({
    apiPorts: [await freePort()],
    workers: 1,
    redisArgs: ['--appendfsync', 'everysec'],
    env: {
      DURABILITY: 'memory',
      PAYMENT_QUEUE_MAX_CONCURRENCY: '48',
      SUMMARY_RANGE: 'optional',
      ALLOW_PURGE: 'true',
    },
    say: (line) => console.log(`  ${line}`),
  });
  stopOnSignal(stack.stop);
  const pids = new Map([
    ['app1', stack.apis[0]!.pid],
    ['worker1', stack.workers[0]!.pid],
    ['redis', stack.redis!.pid],
  ]);
  return {
    backend: stack.apis[0]!.url!,
    primary: stack.primary.url!,
    fallback: stack.fallback.url!,
    readLedger: () => readLedger(stack.databaseUrl),
    usage: () =>
      new Map([...pids].map(([name, pid]) => [name, { cpuMs: processCpuMs(pid), peakMb: undefined, restarts: 0 }])),
    close: stack.stop,
  };
}

/** From /proc, in ticks of 10 ms (man 5 proc). PostgreSQL is left out: it has a process for each connection. */
function processCpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}
