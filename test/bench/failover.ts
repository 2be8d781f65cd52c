import { startRedisCluster } from '../../dev/local/redis-cluster.ts';
import { startRedisSentinel } from '../../dev/local/redis-sentinel.ts';
import type { RedisTopology } from '../../dev/local/redis-topology.ts';
import { printError, runTool } from '../../src/process/run-tool.ts';
import { cleanUp } from '../support/cleanup.ts';
import { startFailoverStack } from '../support/failover.ts';
import { stopSharedServices } from '../support/services.ts';

/**
 * `npm run failover cluster|sentinel [rounds]`: how long no payment is accepted, and none is paid by each worker, after the
 * primary was lost with its disk, after an operator moved it, and after it restarted. With DURABILITY=replica under load; medians.
 */
const TOPOLOGIES: Record<string, () => Promise<RedisTopology>> = {
  cluster: startRedisCluster,
  sentinel: startRedisSentinel,
};

const FAULTS: Record<string, (topology: RedisTopology) => Promise<void>> = {
  async lost(topology) {
    await topology.cutReplicas();
    await topology.losePrimary();
    await topology.healReplicas();
  },
  moved: (topology) => topology.moveAway(),
  restarted: (topology) => topology.restartPrimary(),
};

async function measure(start: () => Promise<RedisTopology>, fault: string): Promise<[number, number]> {
  const topology = await start();
  try {
    const stack = await startFailoverStack(topology);
    const stopLoad = stack.startLoad();
    await stack.underLoad();
    const startedAt = performance.now();
    await FAULTS[fault]!(topology);
    const faultMs = performance.now() - startedAt;
    const { acceptedMs, paidMs } = await stack.timeToGoOn();
    await stopLoad();
    stack.calmDown();
    await stack.settled();
    return [faultMs + acceptedMs, faultMs + paidMs];
  } finally {
    await cleanUp();
    await topology.dispose();
  }
}

async function main(): Promise<void> {
  const [name = 'cluster', rounds = '5'] = process.argv.slice(2);
  const start = TOPOLOGIES[name];
  if (start === undefined) throw new Error(`no topology ${name}: ${Object.keys(TOPOLOGIES).join(', ')}`);
  try {
    for (const fault of Object.keys(FAULTS)) {
      const times: [number, number][] = [];
      for (let round = 0; round < Number(rounds); round += 1) times.push(await measure(start, fault));
      for (const [index, what] of ['accepted again', 'paid again by each worker'].entries()) {
        const seconds = times.map((each) => each[index]! / 1_000).toSorted((a, b) => a - b);
        const median = seconds[Math.floor(seconds.length / 2)]!.toFixed(1);
        console.log(`${name}, ${fault}: ${what} after ${median} s (${seconds.map((s) => s.toFixed(1)).join(' ')})`);
      }
    }
  } finally {
    await stopSharedServices();
  }
}

runTool(import.meta, main, { onError: printError });
