import { request } from 'node:http';
import { startRedis } from '../../tools/servers.ts';
import { after } from '../support/cleanup.ts';
import { exchange } from '../support/http-client.ts';
import { NO_DATABASE } from '../support/queue.ts';
import { useRealSockets } from '../support/real-sockets.ts';
import { aPayment, postPayment, testApi } from '../support/relay.ts';

describe('probe', () => {
  useRealSockets();
  it('too large', async () => {
    const { url } = await testApi(NO_DATABASE);
    const results: Record<string, number> = {};
    for (const size of [100_000, 1_000_000, 5_000_000]) for (const chunked of [false, true]) for (let i = 0; i < 40; i++) {
      const outcome = await new Promise<string>((resolve) => {
        const body = Buffer.alloc(size, ' ');
        const req = request(`${url}/payments`, { method: 'POST', agent: false, headers: chunked ? { 'transfer-encoding': 'chunked' } : { 'content-length': size } }, (res) => { res.resume(); res.on('end', () => resolve(String(res.statusCode))); });
        req.on('error', (e) => resolve((e as NodeJS.ErrnoException).code ?? e.message));
        req.end(body);
      });
      const k = `http ${size} ${chunked} ${outcome}`;
      results[k] = (results[k] ?? 0) + 1;
      const f = await fetch(`${url}/payments`, { method: 'POST', body: Buffer.alloc(size, ' ') }).then(async (r) => { await r.text(); return String(r.status); }, (e) => `${e.cause?.code}`);
      const k2 = `fetch ${size} ${f}`;
      results[k2] = (results[k2] ?? 0) + 1;
    }
    console.log(results);
  });
  for (const n of [1, 150, 300, 500, 1000])
  it('hung burst', async function () {
    this.timeout(20000);
    const own = await startRedis();
    after(() => own.dispose());
    const { url } = await testApi({ REDIS_URL: own.url, ...NO_DATABASE });
    console.log((await postPayment(url)).status);
    own.signal('SIGSTOP');
    const times: number[] = [];
    await Promise.all(Array.from({ length: n }, async () => {
      const r = await exchange(`${url}/payments`, { body: JSON.stringify(aPayment()) });
      times.push(r.elapsedMs);
    }));
    times.sort((a, b) => a - b);
    console.log(n, times[0], times[n >> 1], times.at(-1));
    own.signal('SIGCONT');
  });
});
