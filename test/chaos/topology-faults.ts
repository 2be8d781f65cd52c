import { Redis } from 'ioredis';
import type { RedisTopology } from '../../dev/local/redis-topology.ts';
import { type Fault, lasting, type Stage } from './faults.ts';

/** At most. The services do without a replica that has been missing for 5 s, so in half of the cases they accept again. */
const WITHOUT_ONE_S = 10;

/**
 * The faults of a Redis on several machines: replicas are cut off or lost, the primary is lost, moves, restarts or hangs, a sentinel
 * is lost. At its end a fault starts again what it has stopped.
 */
export function topologyFaults(stage: Stage, topology: RedisTopology): Fault[] {
  const { random } = stage;
  const onRedis = (name: string, run: () => Promise<void>): Fault => ({
    name: `redis ${name}`,
    on: 'redis',
    async run() {
      try {
        await run();
      } finally {
        await topology.mend();
      }
    },
  });
  const whileCut = async (count: number | undefined, toS: number, run: () => Promise<void>) => {
    await topology.cutReplicas(count);
    try {
      await lasting(stage, 0.1, toS);
      await run();
    } finally {
      await topology.healReplicas();
    }
  };
  const hang = async (pid: number, toS: number) => {
    process.kill(pid, 'SIGSTOP');
    await lasting(stage, 0.3, toS);
    process.kill(pid, 'SIGCONT');
  };

  return [
    onRedis('has its replicas cut off', () => whileCut(undefined, 4, async () => {})),
    onRedis('has one replica cut off', () => whileCut(1, WITHOUT_ONE_S, async () => {})),
    onRedis('loses a replica', () => topology.loseReplica()),
    // What it accepts meanwhile is nowhere else.
    onRedis('loses its primary with its disk, its replicas cut off before', () =>
      whileCut(undefined, 1.5, () => topology.losePrimary()),
    ),
    // The other replica has everything that was confirmed.
    onRedis('loses its primary with its disk, one replica cut off before', () =>
      whileCut(1, WITHOUT_ONE_S, () => topology.losePrimary()),
    ),
    onRedis('loses its primary with its disk', () => topology.losePrimary()),
    onRedis('has its primary moved by an operator', () => topology.moveAway()),
    onRedis('has a primary that restarts at once', () => topology.restartPrimary()),
    // After the second that the others wait, it goes on as a primary although there is a new one.
    onRedis('has a primary that hangs', async () => hang(await processId(await topology.primaryUrl()), 5)),
    {
      name: 'redis has a hanging node among those that promote',
      // A sentinel may hang while other faults last. To mend a cluster, all its masters must respond.
      on: topology.name === 'sentinel' ? 'a sentinel' : 'redis',
      run: async () => hang(await processId(random.pick(await promoters(topology))), 6),
    },
  ];
}

/** The URLs of the sentinels, or of the masters of a cluster beside that of the queue. */
async function promoters({ env, primaryUrl }: RedisTopology): Promise<string[]> {
  const sentinels = env['REDIS_SENTINELS'];
  const password = env['REDIS_SENTINEL_PASSWORD'] ?? '';
  if (sentinels !== undefined) return sentinels.split(',').map((node) => `redis://:${password}@${node}`);
  const url = new URL(await primaryUrl());
  const nodes = await ask(url.href, (client) => client.cluster('NODES') as Promise<string>);
  return nodes
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, , flags]) => flags === 'master')
    .map(([, address]) => {
      // With the password of the others.
      const other = new URL(url);
      other.host = address!.replace(/@.*/, '');
      return other.href;
    });
}

/** Runs a command on a connection of its own. */
async function ask<Reply>(url: string, run: (client: Redis) => Promise<Reply>): Promise<Reply> {
  const client = new Redis(url);
  try {
    return await run(client);
  } finally {
    client.disconnect();
  }
}

/** The pid of the server at this URL. It runs on this machine. */
async function processId(url: string): Promise<number> {
  const info = await ask(url, (client) => client.info('server'));
  return Number(/^process_id:(\d+)/m.exec(info)![1]);
}
