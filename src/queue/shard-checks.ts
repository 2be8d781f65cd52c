import { Cluster } from 'ioredis';
import { everyCheck, type RedisCheck } from './redis-check.ts';
import { createServerCheck, lastingFault, type ServerCheckOptions } from './server-check.ts';
import { createShardCount } from './shard-count.ts';
import type { PaymentQueues } from './shards.ts';

/** Whether the shards can be used: their servers (server-check.ts), and their number (shard-count.ts). */
export interface ShardChecks {
  /** Of each shard. */
  readonly shards: readonly RedisCheck[];
  /** Usable while one of the shards is. What the others lack is among its problems. Closing it closes all. */
  readonly all: RedisCheck;
}

/** In a cluster each shard has the check of its own node; otherwise one check is that of all. */
export function createShardChecks({
  queues,
  ...options
}: Omit<ServerCheckOptions, 'queues' | 'warned'> & { queues: PaymentQueues }): ShardChecks {
  const { redis, logger } = options;
  const warned = new Set<string>();
  const servers =
    redis instanceof Cluster
      ? queues.shards.map((shard) => createServerCheck({ ...options, queues: [shard], warned }))
      : [createServerCheck({ ...options, queues: queues.shards })];
  const count = createShardCount({ redis, queues, logger });
  return {
    shards: queues.shards.map((_, index) => everyCheck([servers[index] ?? servers[0]!, count])),
    all: everyCheck([someCheck(servers), count]),
  };
}

/** Usable while one of these is. */
function someCheck(checks: readonly RedisCheck[]): RedisCheck {
  const [only] = checks;
  if (checks.length === 1) return only!;
  const isUsable = () => checks.some(({ fault }) => fault === undefined);
  return {
    get fault() {
      return isUsable() ? undefined : only!.fault;
    },
    get problems() {
      const faults = checks.flatMap((check, index) => {
        const fault = isUsable() ? lastingFault(check) : undefined;
        return fault ? [{ code: fault.code, detail: `shard ${index + 1} of ${checks.length}: ${fault.detail}` }] : [];
      });
      const problems = new Map(checks.flatMap((check) => check.problems).map((problem) => [problem.detail, problem]));
      return [...faults, ...problems.values()];
    },
    async whenUsable() {
      await Promise.race(checks.map((check) => check.whenUsable()));
    },
    close() {
      for (const check of checks) check.close();
    },
  };
}
