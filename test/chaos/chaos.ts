import { fileURLToPath } from 'node:url';
import { freePort } from '../../dev/local/ports.ts';
import { startRedisCluster } from '../../dev/local/redis-cluster.ts';
import { startRedisSentinel } from '../../dev/local/redis-sentinel.ts';
import type { RedisTopology } from '../../dev/local/redis-topology.ts';
import { type Stack, startStack } from '../../dev/stack.ts';
import { createTcpProxy, type TcpProxy } from '../../dev/tcp-proxy.ts';
import { loadConfig } from '../../src/config.ts';
import { printError, runTool } from '../../src/process/run-tool.ts';
import { paymentQueues } from '../../src/queue/shards.ts';
import { createIntermediary, type Intermediary } from '../support/intermediary.ts';
import { createClocks } from './clocks.ts';
import type { GatewayKey, Proxies, Stage } from './faults.ts';
import { createRandom, type Random } from './random.ts';
import { torment } from './torment.ts';
import { describeBreaches, formatRows, reachVerdict } from './verdict.ts';

/**
 * `make chaos`: a stack of real processes under constant load and random faults, then calm, then the verdict.
 *
 * A run's seed decides what it is like: the policy (FALLBACK_ON, FALLBACK_AFTER_MS), whether the pools and the queue are small,
 * whether an operator stops a gateway and releases what it has not made (operator.ts),
 * and whether intermediaries respond in the gateways' place. In such a run GATEWAY_EMPTY_500 is `unknown`; in the others an
 * empty 500 is the gateway's own and the setting is `refused`. The seed decides about the faults, too, but they
 * meet other payments each time. An unresolved payment pauses for 30 s at most, so the 60 s of the first guarantee are enough.
 *
 * The verdict compares sets of ids. `lost`: accepted, valid, and not on record at any gateway, buried ones included.
 * `unrecorded`: on record, but not in the ledger or there with other values. `unpaid rows`: in the ledger and not on record.
 * `buried valid`: valid payments among the dead letters. `failures`: processes that ended unexpectedly or with a wrong code.
 *
 * CHAOS_SECONDS: how long faults are injected (default 120; 60 with CHAOS_SEEDS). CHAOS_SEED: repeats a run.
 * CHAOS_SEEDS=1-20: these runs one after the other, with one row each. 20 in a row have every policy, with and without
 * intermediaries. The exit code is 1 when any of them has a breach, 2 when one did not run to its end.
 * CHAOS_APPENDFSYNC (always): when Redis writes to disk. With `everysec` Redis replies before it writes while an fsync runs
 * in the background, and a kill in that window loses those writes (README, "Durability"): payments, which the verdict shows
 * as lost or unrecorded, and bindings to the fallback, without which a payment is paid twice. Only this window has that
 * effect: `node test/chaos/fsync-window.ts` aims at it, and `always` has no such window.
 * CHAOS_TOPOLOGY (single): `sentinel` runs it over a primary with two replicas and three sentinels, `cluster` over a Redis Cluster of
 * three primaries with two replicas each, both with `DURABILITY=replica`. There Redis' faults are those of its machines
 * (topology-faults.ts) and those that a command can cause. The services connect to its servers without a proxy.
 * CHAOS_SHARDS (1): over how many queues the payments are split. In a cluster they are on all of its masters, and each fault of a
 * machine is that of another shard's.
 * CHAOS_DURABILITY: another value than the topology's own. With `CHAOS_TOPOLOGY=sentinel CHAOS_DURABILITY=disk` the verdict must be a
 * breach, because a 204 does not wait for a replica. `CHAOS_FAULTS='redis loses its primary'` shows it soonest.
 * CHAOS_BREAK_RULE=1: runs workers without the rule that keeps a payment paid once. The verdict must be a breach.
 * CHAOS_FAULTS='fsync|429': injects only faults whose names match this regular expression.
 * CHAOS_LOG=info: prints every log line of the services, from this level on.
 */
const BREAK_RULE = process.env['CHAOS_BREAK_RULE'] === '1';
const TOPOLOGY = parseTopology(process.env['CHAOS_TOPOLOGY']);
const QUEUES = paymentQueues({ name: 'payments', shards: Number(process.env['CHAOS_SHARDS'] ?? 1) });
const APPENDFSYNC = process.env['CHAOS_APPENDFSYNC'] ?? 'always';
const DURABILITY = process.env['CHAOS_DURABILITY'] ?? usualDurability();
const FAULTS = new RegExp(process.env['CHAOS_FAULTS'] ?? '');
const LOG_LEVEL = process.env['CHAOS_LOG'];
const SEEDS = parseSeeds(process.env['CHAOS_SEEDS']);
const SECONDS = Number(process.env['CHAOS_SECONDS'] ?? (SEEDS ? 60 : 120));

/** The settings of the routing that runs use by turns. */
const POLICIES = [
  { FALLBACK_ON: 'pool_timeout' },
  { FALLBACK_ON: 'not_sent' },
  { FALLBACK_ON: 'pool_timeout', FALLBACK_AFTER_MS: '1500' },
  { FALLBACK_ON: 'not_sent', FALLBACK_AFTER_MS: '4000' },
  { FALLBACK_ON: 'never' },
] as const;

/** The policy under which a broken rule shows soonest. */
const POLICY_TO_BREAK = POLICIES[2];

/** What a run is like. */
interface Plan {
  readonly areIntermediariesLying: boolean;
  readonly hasOperator: boolean;
  /** Whether the intermediary or the network comes first. Behind the intermediary a broken network is a response, too. */
  readonly isIntermediaryInFront: boolean;
  readonly env: Readonly<Record<string, string>>;
}

function plan(seed: number, random: Random): Plan {
  // By the seed itself. 3 and 5 have no common factor, so consecutive seeds have all combinations.
  const areIntermediariesLying = !BREAK_RULE && seed % 3 !== 0;
  return {
    areIntermediariesLying,
    // A gateway is stopped for most of a short run, so not in every run. 4 has no factor in common with 3 and 5.
    hasOperator: !BREAK_RULE && seed % 4 === 1,
    isIntermediaryInFront: areIntermediariesLying && random.next() < 0.5,
    env: {
      ...(BREAK_RULE ? POLICY_TO_BREAK : POLICIES[seed % POLICIES.length]!),
      GATEWAY_EMPTY_500: areIntermediariesLying ? 'unknown' : 'refused',
      GATEWAY_REJECT_AFTER_MS: '30000',
      PAYMENT_QUEUE_MAX_CONCURRENCY: '24',
      // Both small enough to be under pressure whenever the primary is slow.
      GATEWAY_POOL_SIZE: random.pick(['2', '6', '6']),
      GATEWAY_POOL_TIMEOUT_MS: '40',
      // A small one is full two seconds after both gateways have gone down.
      PAYMENT_QUEUE_MAX_SIZE: random.pick(['300', '50000', '50000']),
      DURABILITY,
      QUEUE_SHARDS: String(QUEUES.shards.length),
    },
  };
}

function usualDurability(): string {
  if (TOPOLOGY !== 'single') return 'replica';
  return APPENDFSYNC === 'always' ? 'disk' : 'memory';
}

/** One run. @returns its row of the table, and whether every guarantee was kept. */
async function run(seed: number): Promise<{ isKept: boolean; row: Readonly<Record<string, string | number>> }> {
  const random = createRandom(seed);
  const { areIntermediariesLying, hasOperator, isIntermediaryInFront, env } = plan(seed, random);
  const place = areIntermediariesLying ? `intermediaries ${isIntermediaryInFront ? 'in front' : 'behind'}` : '';
  const setting = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  console.log(
    [
      `chaos: seed ${seed}, ${SECONDS} s`,
      ...setting,
      TOPOLOGY === 'single' ? `appendfsync ${APPENDFSYNC}` : TOPOLOGY,
      place,
      hasOperator && 'an operator',
      BREAK_RULE && 'RULE BROKEN',
    ]
      .filter(Boolean)
      .join(', '),
  );

  await using cleanUp = new AsyncDisposableStack();
  const clocks = createClocks();
  cleanUp.defer(clocks.close);
  const proxies: Partial<Record<keyof Proxies, TcpProxy>> = {};
  const intermediaries: Partial<Record<GatewayKey, Intermediary>> = {};
  const throughNetwork = async (server: keyof Proxies, port: number) => {
    const proxy = await createTcpProxy(port);
    cleanUp.defer(proxy.close);
    proxies[server] = proxy;
    return proxy.port;
  };
  const throughIntermediary = async (gateway: GatewayKey, port: number) => {
    const intermediary = await createIntermediary(`http://127.0.0.1:${port}`, { recordRequests: false });
    cleanUp.defer(intermediary.close);
    intermediaries[gateway] = intermediary;
    return intermediary.port;
  };
  const topology = await startTopology();
  if (topology) cleanUp.defer(() => topology.dispose());
  const logs: string[] = [];
  const preload = ['clock-shift.ts', ...(BREAK_RULE ? ['break-the-rule.ts'] : [])];
  const stack = await startStack({
    apiPorts: [await freePort(), await freePort()],
    workers: 2,
    redisUrl: await topology?.primaryUrl(),
    redisArgs: ['--appendfsync', APPENDFSYNC],
    env: {
      ...env,
      ...topology?.env,
      ...clocks.env,
      LOG_LEVEL: LOG_LEVEL ?? 'info',
    },
    nodeArgs: preload.flatMap((file) => ['--import', fileURLToPath(new URL(file, import.meta.url))]),
    async through(server, port) {
      if (server === 'redis' && topology) return port;
      if (server === 'redis' || server === 'postgres') return throughNetwork(server, port);
      return isIntermediaryInFront
        ? throughIntermediary(server, await throughNetwork(server, port))
        : throughNetwork(server, await throughIntermediary(server, port));
    },
    onLine(service, line) {
      if (LOG_LEVEL) console.log(`    ${service} ${line}`);
      else if (line.includes('"level":"error"') || !line.startsWith('{')) logs.push(`${service} ${line}`);
    },
  });
  cleanUp.defer(stack.stop);

  const stage: Stage = {
    stack: stack as Required<Stack>,
    queues: QUEUES,
    topology,
    redis: loadConfig({ DATABASE_URL: stack.databaseUrl, REDIS_URL: stack.redisUrl, ...topology?.env }).redis,
    proxies: proxies as Proxies,
    intermediaries: intermediaries as Record<GatewayKey, Intermediary>,
    areIntermediariesLying,
    hasOperator,
    clocks,
    random,
  };
  const account = await torment(stage, SECONDS, FAULTS);
  const verdict = await reachVerdict(stage, account);
  if (!verdict.isKept) {
    console.log(
      [...logs.slice(-40), ...account.failures, `BREACH (seed ${seed})`, describeBreaches(verdict)].join('\n'),
    );
  }
  const policy = [env['FALLBACK_ON'], env['FALLBACK_AFTER_MS']].filter(Boolean).join(' ');
  return {
    isKept: verdict.isKept,
    row: { seed, policy, lies: areIntermediariesLying ? 'yes' : 'no', ...verdict.row },
  };
}

function startTopology(): Promise<RedisTopology> | undefined {
  switch (TOPOLOGY) {
    case 'single':
      return undefined;
    case 'sentinel':
      return startRedisSentinel();
    case 'cluster':
      return startRedisCluster({ prefixes: QUEUES.shards.map(({ prefix }) => prefix) });
  }
}

/** @throws an Error when there is no such topology */
function parseTopology(text = 'single'): 'single' | RedisTopology['name'] {
  if (text === 'single' || text === 'sentinel' || text === 'cluster') return text;
  throw new Error(`CHAOS_TOPOLOGY must be single, sentinel or cluster (got "${text}")`);
}

/** @throws an Error when the text is neither a number nor a range like `1-20` */
function parseSeeds(text: string | undefined): readonly number[] | undefined {
  if (text === undefined || text === '') return undefined;
  const [, first, last = first] = /^(\d+)(?:-(\d+))?$/.exec(text) ?? [];
  const count = Number(last) - Number(first) + 1;
  if (!(count >= 1)) throw new Error(`CHAOS_SEEDS must be a range like 1-20 (got "${text}")`);
  return Array.from({ length: count }, (_, index) => Number(first) + index);
}

async function main(): Promise<number> {
  const seeds = SEEDS ?? [Number(process.env['CHAOS_SEED'] ?? Math.floor(Math.random() * 1e6))];
  const rows: Readonly<Record<string, string | number>>[] = [];
  const breached: number[] = [];
  const notRun: number[] = [];
  for (const seed of seeds) {
    try {
      const { isKept, row } = await run(seed);
      rows.push(row);
      if (!isKept) breached.push(seed);
    } catch (error) {
      console.error(`seed ${seed} did not run to its end:`, error);
      notRun.push(seed);
    }
    // After each run, so that an interrupted series has shown its results.
    console.log(`\n${formatRows(rows)}\n`);
  }
  if (notRun.length > 0) console.log(`Did not run to the end: seed ${notRun.join(', ')}`);
  if (breached.length > 0) console.log(`Verdict: BREACH (seed ${breached.join(', ')})`);
  else if (rows.length > 0) {
    console.log(
      `Verdict: every guarantee was kept (${rows.length === 1 ? `seed ${rows[0]!['seed']}` : `${rows.length} seeds`}).`,
    );
  }
  if (breached.length > 0) return 1;
  return notRun.length > 0 ? 2 : 0;
}

runTool(import.meta, main, { onError: printError });
