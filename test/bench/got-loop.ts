import { randomUUID } from 'node:crypto';
import { Agent } from 'node:http';
import got from 'got';
import { runTool } from '../../src/process/run-tool.ts';

/**
 * The baseline of the drain: a bare loop that makes the worker's POSTs with got, and nothing else.
 * For every line `<count>` on stdin it makes that many, and prints a line when all of them have their response.
 */
async function main(): Promise<void> {
  const concurrency = Number(process.env['CONCURRENCY']);
  const url = `${process.env['GATEWAY_URL']}/payments`;
  const client = got.extend({
    agent: { http: new Agent({ keepAlive: true, maxSockets: concurrency }) },
    timeout: { request: 1000 },
    retry: { limit: 0 },
    followRedirect: false,
    throwHttpErrors: false,
  });
  async function pay(count: number): Promise<void> {
    let left = count;
    await Promise.all(
      Array.from({ length: concurrency }, async () => {
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
  process.stdin.setEncoding('utf8').on('data', (line: string) => void pay(Number(line)));
  console.log('ready');
}

runTool(import.meta, main);
