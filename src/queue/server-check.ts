import calculateSlot from 'cluster-key-slot';
import { Cluster, type Redis } from 'ioredis';
import type { Durability } from '../config.ts';
import type { Logger } from '../process/logger.ts';
import type { Failure } from '../process/outage-log.ts';
import { type PaymentQueueName, queueKey } from './bullmq-layout.ts';
import { NOT_CHECKED, type RedisCheck, type RedisFault, startRedisCheck } from './redis-check.ts';
import { checkRights, type Role } from './server-rights.ts';
import { judgeSettings, readSettings } from './server-settings.ts';

/**
 * Checks whether the connected Redis can be trusted with payments, after every connect and before anything is written or
 * taken. These servers accept commands and lose payments: one that evicts keys, one that is less durable than promised,
 * one whose user lacks a right, and one where another program uses our keys.
 *
 * A missing right must be found before the first write. A script that meets it half way has done the first half.
 */
export type ServerCheck = RedisCheck;

/** How long a check may take before its absence is a fault that an operator should see. */
const CHECK_TAKES_MS = 2_000;

/** The fault as operators should see it: undefined, too, while the first check of a new connection is under way. */
export function lastingFault({ fault }: Pick<RedisCheck, 'fault'>): RedisFault | undefined {
  const isNew = fault?.code === NOT_CHECKED.code && Date.now() - fault.since.getTime() < CHECK_TAKES_MS;
  return isNew ? undefined : fault;
}

export interface ServerCheckOptions {
  readonly redis: Redis | Cluster;
  /** Of one server. In a cluster they have one slot. */
  readonly queues: readonly PaymentQueueName[];
  /** Undefined: `disk` is expected, but less is a problem and no fault. */
  readonly durability: Durability | undefined;
  readonly role: Role;
  readonly logger: Logger;
  /** Shared by checks that would log the same. */
  readonly warned?: Set<string>;
}

/** How often a usable server is checked again: an administrator may change its settings. */
const REFRESH_MS = 30_000;

/** The same where replicas count, because they come and go. */
const REFRESH_REPLICAS_MS = 5_000;

/** What an operator should correct, while payments are accepted all the same. */
const MERE_PROBLEMS = ['unreadable', 'few_replicas', 'failover_loses'];

export function createServerCheck(options: ServerCheckOptions): ServerCheck {
  const { redis, queues, durability, role, logger, warned } = options;
  const canFailOver = redis instanceof Cluster || Boolean(redis.options.sentinels);

  async function findings(): Promise<Failure[]> {
    const promise = { durability, canFailOver };
    const [settings, ...rights] = await Promise.all([
      readSettings(redis instanceof Cluster ? masterOf(redis, queues[0]!) : redis),
      ...queues.map((queue) => checkRights(redis, queue, { role, ...promise })),
    ]);
    return [...rights.flat(), ...judgeSettings(settings, promise)];
  }

  const isFatal = ({ code }: Failure) =>
    !MERE_PROBLEMS.includes(code) && (code !== 'not_durable' || durability !== undefined);

  return startRedisCheck({
    redis,
    refreshMs: durability === 'replica' ? REFRESH_REPLICAS_MS : REFRESH_MS,
    messages: {
      fault: 'not ready: Redis cannot be used as it is set up',
      end: 'ready: Redis can be used',
      problem: 'Redis is used although it may not keep what it accepts',
    },
    logger,
    ...(warned && { warned }),
    async look() {
      const found = await findings();
      return { fatal: found.find(isFatal), problems: found.filter((failure) => !isFatal(failure)) };
    },
  });
}

/** @throws while the cluster does not say which node serves the queue */
function masterOf(cluster: Cluster, queue: PaymentQueueName): Redis {
  const address = cluster.slots[calculateSlot(queueKey(queue, ''))]?.[0];
  const node = cluster.nodes('master').find(({ options: { host, port } }) => `${host}:${port}` === address);
  if (node === undefined) throw new Error(`the cluster does not say which node serves ${queueKey(queue, '*')}`);
  return node;
}
