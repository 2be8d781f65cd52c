import { loadConfig } from '../config.ts';
import { createDb, OPERATOR_LIMITS } from '../ledger/db.ts';
import { createOperatorActions } from '../ledger/operator-actions.ts';
import { createLateRows } from '../operations/late-rows.ts';
import type { PauseDeps } from '../operations/pause-queue.ts';
import type { SteerDeps } from '../operations/steer.ts';
import { createTrail } from '../operations/trail.ts';
import { createLogger } from '../process/logger.ts';
import { createActionOutbox } from '../queue/action-outbox.ts';
import { createQueueAdmin } from '../queue/queue-admin.ts';
import { createQueueWatch } from '../queue/queue-state.ts';
import { createProducerConnection, firstConnection } from '../queue/redis.ts';
import { writerFor } from '../queue/replicated-writer.ts';
import { expectShards } from '../queue/shard-count.ts';
import { paymentQueues } from '../queue/shards.ts';
import { createSteering } from '../queue/steering.ts';
import { settingsOrRun } from './run-state.ts';

/** Runs an act of a command with what steers the relay of the settings, or of a running `make run`. */
export async function withSteering<T>(act: (deps: SteerDeps & PauseDeps) => Promise<T>): Promise<T> {
  const config = loadConfig(await settingsOrRun());
  const queues = paymentQueues(config.queue);
  const { home: queue, shards } = queues;
  const redis = createProducerConnection(config.redis);
  // A lost connection fails the commands. Without a listener its event would end the process.
  redis.on('error', () => {});
  const writer = writerFor(config, redis, queue);
  await firstConnection(redis);
  const db = createDb(config.database, OPERATOR_LIMITS);
  const queueAdmin = createQueueAdmin(config.redis, queues);
  const logger = createLogger({ level: 'error', role: 'steering' });
  const actions = createOperatorActions(db);
  const lateRows = createLateRows({ outbox: createActionOutbox({ redis, queue }), actions, logger });
  const trail = createTrail({ actions, lateRows, logger });
  try {
    await expectShards(redis, queues);
    return await act({
      steering: createSteering({ redis, queue, writer }),
      queueAdmin,
      queueWatch: createQueueWatch({ redis, queue, shards }),
      trail,
    });
  } finally {
    await trail.close();
    writer?.close();
    redis.disconnect();
    await queueAdmin.close();
    await db.destroy();
  }
}
