import { randomUUID } from 'node:crypto';
import { Agent } from 'node:http';
import got from 'got';

/**
 * The baseline of the drain: a bare loop that makes the worker's POSTs with got, and nothing else.
 * For every line `<count>` on stdin it makes that many, and prints a line when all of them have their response.
 */
const CONCURRENCY = Number(process.env['CONCURRENCY']);
const url = `${process.env['GATEWAY_URL']}/payments`;
const client = got.extend({
  agent: { http: new Agent({ keepAlive: true, maxSockets: CONCURRENCY }) },
  timeout: { request: 1000 },
  retry: { limit: 0 },
  followRedirect: false,
  throwHttpErrors: false,
});

async function pay(line: string): Promise<void> {
  let left = Number(line);
  await Promise.all(
    Array.from({ length: CONCURRENCY }, async () => {
      while (left > 0) {
        left -= 1;
        const body = JSON.stringify({
          correlationId: randomUUID(),
          amount: 19.9,
          requestedAt: new Date().toISOString(),
        });
        await client.post(url, { headers: { 'content-type': 'application/json' }, body });
      }
    }),
  );
  console.log('done');
}

process.stdin.setEncoding('utf8').on('data', (line: string) => void pay(line));
console.log('ready');
