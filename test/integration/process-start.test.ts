import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { freePort } from '../../dev/local/ports.ts';
import { startRedis } from '../../dev/local/redis.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { exchange } from '../support/http-client.ts';
import { NO_DATABASE, NO_REDIS } from '../support/queue.ts';
import { aPayment, eventually, type TestEnv } from '../support/relay.ts';

const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));

/** Prints a line when the entry has begun to listen for SIGTERM. */
const SAYS_WHEN_IT_LISTENS = `--import=data:text/javascript,${encodeURIComponent(
  `import { writeSync } from 'node:fs';
   process.on('newListener', (event) => event === 'SIGTERM' && queueMicrotask(() => writeSync(1, 'listens')));`,
)}`;

/** A process of ours that this test starts by itself, because it sends a signal before the process is ready. */
function startMain(env: TestEnv, nodeArgs: readonly string[] = []) {
  const child = spawn(process.execPath, [...nodeArgs, MAIN], {
    env: { PATH: process.env['PATH'], HOST: '127.0.0.1', ...NO_REDIS, ...NO_DATABASE, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  atTestEnd(() => child.kill('SIGKILL'));
  const written = { text: '' };
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (written.text += data));
  const exited = once(child, 'exit') as Promise<[code: number | null, signal: string | null]>;
  return { child, written, exited };
}

describe('a process that receives a signal while it starts', () => {
  it('has begun to listen for it before it reads a setting', async () => {
    const { written, exited } = startMain({ PORT: 'wrong' }, [SAYS_WHEN_IT_LISTENS]);
    expect(await exited).to.deep.equal([1, null]);
    expect(written.text).to.match(/^listens.*PORT must be/s);
  });

  it('ends with code 0 as soon as it listens for it', async () => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      const { child, written, exited } = startMain({}, [SAYS_WHEN_IT_LISTENS]);
      await eventually(() => written.text.startsWith('listens'));
      child.kill(signal);
      expect(await exited).to.deep.equal([0, null]);
    }
  });

  it('ends with code 0 while the API waits for its first connection to Redis, and never listens', async () => {
    const silent = createServer().listen(0, '127.0.0.1');
    const sockets: Socket[] = [];
    atTestEnd(() => {
      for (const socket of sockets) socket.destroy();
      silent.close();
    });
    await once(silent, 'listening');
    const { port } = silent.address() as { port: number };
    const { child, written, exited } = startMain({ APP_ROLE: 'all', REDIS_URL: `redis://127.0.0.1:${port}` });
    const [socket] = (await once(silent, 'connection')) as [Socket];
    sockets.push(socket);
    child.kill('SIGTERM');
    expect(await exited).to.deep.equal([0, null]);
    expect(written.text).to.not.include('listening');
  });
});

describe('an API process whose log has no reader', () => {
  it('goes on, and ends with code 0 at a signal', async () => {
    const redis = await startRedis();
    atTestEnd(() => redis.dispose());
    const port = await freePort();
    const { child, exited } = startMain({ APP_ROLE: 'api', PORT: String(port), REDIS_URL: redis.url });
    await eventually(() => isHealthy(port));
    child.stdout.destroy();
    child.stderr.destroy();
    // It logs both.
    await redis.stop();
    await eventually(async () => !(await isHealthy(port)));
    await redis.start();
    await eventually(() => isHealthy(port));
    const body = JSON.stringify(aPayment());
    expect((await exchange(`http://127.0.0.1:${port}/payments`, { body })).status).to.equal(204);
    child.kill('SIGTERM');
    expect(await exited).to.deep.equal([0, null]);
  });
});

const isHealthy = (port: number) =>
  exchange(`http://127.0.0.1:${port}/health`, { method: 'GET' }).then(
    ({ status }) => status === 200,
    () => false,
  );
