import { hostname, userInfo } from 'node:os';
import { loadConfig } from '../config.ts';
import { createDb, OPERATOR_LIMITS } from '../ledger/db.ts';
import { createLedger } from '../ledger/ledger.ts';
import { createNoTrail } from '../operations/no-trail.ts';
import type { PauseDeps } from '../operations/pause-queue.ts';
import type { SteerDeps } from '../operations/steer.ts';
import { paymentQueue } from '../queue/payment-queue.ts';
import { createQueueAdmin } from '../queue/queue-admin.ts';
import { createQueueWatch } from '../queue/queue-state.ts';
import { createProducerConnection, firstConnection } from '../queue/redis.ts';
import { createSteering } from '../queue/steering.ts';
import { settingsOrRun } from './run-state.ts';

/** Who runs a command, for the trail. */
export function commandUser(): string {
  return `${userInfo().username}@${hostname()}`;
}

/** Runs an act of a command with what steers the relay of the settings, or of a running `make run`. */
export async function withSteering<T>(act: (deps: SteerDeps & PauseDeps) => Promise<T>): Promise<T> {
  const config = loadConfig(await settingsOrRun());
  const queue = paymentQueue(config.queue);
  const redis = createProducerConnection(config.redis);
  // A lost connection fails the commands. Without a listener its event would end the process.
  redis.on('error', () => {});
  await firstConnection(redis);
  const db = createDb(config.database, OPERATOR_LIMITS);
  const queueAdmin = createQueueAdmin(config.redis, queue);
  try {
    return await act({
      steering: createSteering({ redis, queue }),
      queueAdmin,
      queueWatch: createQueueWatch({ redis, queue }),
      trail: createNoTrail(createLedger(db)),
    });
  } finally {
    redis.disconnect();
    await queueAdmin.close();
    await db.destroy();
  }
}
