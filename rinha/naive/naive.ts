import { createServer } from 'node:http';
import { Queue, Worker } from 'bullmq';
import express from 'express';
import got from 'got';
import knex from 'knex';

/**
 * What a first version does: a count and an `add` for each request, a got POST and an INSERT for each job, BullMQ's retries.
 * It knows one gateway, has no circuit, and sends a payment again without asking whether it was charged.
 * APP_ROLE is api, worker or migrate. The other settings have Payrelay's names.
 */
const env = process.env as Record<string, string>;
const { hostname, port } = new URL(env['REDIS_URL'] ?? 'redis://');
const connection = env['REDIS_URL'] ? { host: hostname, port: Number(port) } : { path: env['REDIS_HOST']! };
const connectToLedger = () => knex({ client: 'pg', connection: env['DATABASE_URL']! });

function startApi(): void {
  const queue = new Queue('naive', { connection });
  const ledger = connectToLedger();
  const app = express();
  app.use(express.json());
  app.post('/payments', async (request, response) => {
    const { waiting = 0, delayed = 0, prioritized = 0 } = await queue.getJobCounts('waiting', 'delayed', 'prioritized');
    if (waiting + delayed + prioritized >= 50_000_000) return void response.status(503).end();
    await queue.add('payment', request.body, {
      jobId: request.body.correlationId,
      attempts: 1_000_000,
      backoff: { type: 'fixed', delay: 1000 },
      removeOnComplete: true,
    });
    response.status(204).end();
  });
  app.get('/payments-summary', async ({ query: { from, to } }, response) => {
    const range = [String(from ?? '-infinity'), String(to ?? 'infinity')] as const;
    const [totals] = await ledger('payments')
      .whereBetween('requested_at', range)
      .select(ledger.raw('count(*)::int AS count, coalesce(sum(amount_cents), 0)::float8 / 100 AS amount'));
    const none = { totalRequests: 0, totalAmount: 0 };
    response.json({ default: { totalRequests: totals.count, totalAmount: totals.amount }, fallback: none });
  });
  app.post('/purge-payments', async (_request, response) => {
    await queue.obliterate({ force: true });
    await ledger('payments').truncate();
    response.end();
  });
  // The load balancer runs as another user, and must be able to write to the socket.
  process.umask(0);
  const host = env['HOST']!;
  const address = host.startsWith('/') ? { path: host } : { host, port: Number(env['PORT']) };
  createServer(app).listen(address, () => process.send?.('ready'));
}

function startWorker(): void {
  const ledger = connectToLedger();
  const pay = async ({ data: { correlationId, amount } }: { data: { correlationId: string; amount: number } }) => {
    const requestedAt = new Date();
    await got.post(`${env['GATEWAY_PRIMARY_URL']}/payments`, {
      json: { correlationId, amount, requestedAt },
      retry: { limit: 0 },
      timeout: { request: 5000 },
    });
    await ledger('payments').insert({
      correlation_id: correlationId,
      gateway: 'default',
      amount_cents: Math.round(amount * 100),
      requested_at: requestedAt,
    });
  };
  new Worker('naive', pay, { connection, concurrency: Number(env['PAYMENT_QUEUE_MAX_CONCURRENCY']) });
}

async function migrate(): Promise<void> {
  const ledger = connectToLedger();
  await ledger.schema.createTable('payments', (table) => {
    table.uuid('correlation_id').primary();
    table.text('gateway');
    table.bigInteger('amount_cents');
    table.timestamp('requested_at').index();
  });
  await ledger.destroy();
}

const roles: Record<string, () => unknown> = { api: startApi, worker: startWorker, migrate };
await roles[env['APP_ROLE']!]!();
