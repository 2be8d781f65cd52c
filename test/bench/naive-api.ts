import { Queue } from 'bullmq';
import express from 'express';

/** What a first version does: for every request, count the queue, then add a job. */
const redis = new URL(process.env['REDIS_URL']!);
const queue = new Queue('naive', { connection: { host: redis.hostname, port: Number(redis.port) } });
const app = express();
app.use(express.json());
app.post('/payments', async (request, response) => {
  const { waiting = 0, delayed = 0, prioritized = 0 } = await queue.getJobCounts('waiting', 'delayed', 'prioritized');
  if (waiting + delayed + prioritized >= 50_000_000) return void response.status(503).end();
  await queue.add('payment', request.body, { jobId: request.body.correlationId, removeOnComplete: true });
  response.status(204).end();
});
app.listen(Number(process.env['PORT']), '127.0.0.1', () => console.log('listening'));
