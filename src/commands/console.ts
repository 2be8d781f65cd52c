import { start } from 'node:repl';
import { loadConfig } from '../config.ts';
import { HttpGateway } from '../gateways/http-gateway.ts';
import { createDb, OPERATOR_LIMITS } from '../ledger/db.ts';
import { createLedger } from '../ledger/ledger.ts';
import { createPaymentStatus } from '../operations/payment-status.ts';
import { createLogger } from '../process/logger.ts';
import { runTool } from '../process/run-tool.ts';
import { combinePaymentFinders, createPaymentFinder } from '../queue/find-payment.ts';
import { createQueueAdmin } from '../queue/queue-admin.ts';
import { createQueueWatch } from '../queue/queue-state.ts';
import { createProducerConnection, firstConnection, logConnection } from '../queue/redis.ts';
import { expectShards } from '../queue/shard-count.ts';
import { paymentQueues } from '../queue/shards.ts';
import { settingsOrRun } from './run-state.ts';

/** `npm run console`: a REPL with the services of the settings, or of a running `make run`. */
async function main(): Promise<void> {
  const config = loadConfig(await settingsOrRun());
  const db = createDb(config.database, OPERATOR_LIMITS);
  const paymentShards = paymentQueues(config.queue);
  const { home, shards } = paymentShards;
  const queueAdmin = createQueueAdmin(config.redis, paymentShards);
  const logger = createLogger({ level: config.logLevel, role: 'console' });
  const redis = createProducerConnection(config.redis);
  logConnection(redis, logger);
  await firstConnection(redis);
  await expectShards(redis, paymentShards);

  const ledger = createLedger(db);
  console.log(
    'paymentStatus, config, queues (BullMQ, one for each shard; queue is the first), ledger, db (knex), primary, fallback; top-level await. Examples:',
  );
  console.log("  await paymentStatus('4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3')");
  console.log('  await queue.getJobCounts()');
  console.log('  await ledger.summarise({})');
  console.log("  await primary.findPayment('4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3')");

  const queues = await queueAdmin.queues();
  const context = {
    config,
    db,
    queues,
    queue: queues[0],
    ledger,
    paymentStatus: createPaymentStatus({
      jobs: combinePaymentFinders(
        shards.map((shard) => createPaymentFinder({ redis, queue: shard, serverCheck: { fault: undefined } })),
      ),
      ledger,
      queueWatch: createQueueWatch({ redis, queue: home, shards }),
    }),
    primary: new HttpGateway('primary', config.gateways.primary, logger),
    fallback: new HttpGateway('fallback', config.gateways.fallback, logger),
  };
  const repl = start({ prompt: 'payrelay> ' });
  Object.assign(repl.context, context);
  const close = async () => {
    redis.disconnect();
    await queueAdmin.close();
    await db.destroy();
    process.exit(0);
  };
  repl.on('exit', () => void close());
}

runTool(import.meta, main);
