import { start } from 'node:repl';
import { loadConfig } from '../config.ts';
import { HttpGateway } from '../gateways/http-gateway.ts';
import { createDb, OPERATOR_LIMITS } from '../ledger/db.ts';
import { createLedger } from '../ledger/ledger.ts';
import { createLogger } from '../process/logger.ts';
import { runTool } from '../process/run-tool.ts';
import { paymentQueue } from '../queue/payment-queue.ts';
import { createQueueAdmin } from '../queue/queue-admin.ts';

/** `npm run console`: a REPL with the services of the settings. */
async function main(): Promise<void> {
  const config = loadConfig();
  const db = createDb(config.database, OPERATOR_LIMITS);
  const queueAdmin = createQueueAdmin(config.redis, paymentQueue(config.queue));

  console.log('config, queue (BullMQ), ledger, db (knex), primary, fallback; with top-level await. Examples:');
  console.log('  await queue.getJobCounts()');
  console.log('  await ledger.summarise({})');
  console.log("  await primary.findPayment('4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3')");

  const logger = createLogger({ level: config.logLevel, role: 'console' });
  const context = {
    config,
    db,
    queue: await queueAdmin.queue(),
    ledger: createLedger(db),
    primary: new HttpGateway('primary', config.gateways.primary, logger),
    fallback: new HttpGateway('fallback', config.gateways.fallback, logger),
  };
  const repl = start({ prompt: 'payrelay> ' });
  Object.assign(repl.context, context);
  const close = async () => {
    await queueAdmin.close();
    await db.destroy();
    process.exit(0);
  };
  repl.on('exit', () => void close());
}

runTool(import.meta, main);
