import { once } from 'node:events';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { startPostgres } from '../../dev/local/postgres.ts';
import { startRedis } from '../../dev/local/redis.ts';
import { loadConfig } from '../../src/config.ts';
import { createDb, query } from '../../src/ledger/db.ts';

import { QUEUE_PREFIX } from '../../src/queue/payment-queue.ts';
import { startApiProcess } from '../support/api-process.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { lookInto, NO_REDIS } from '../support/queue.ts';
import { aPayment, eventually } from '../support/relay.ts';

function directory(): string {
  const dir = mkdtempSync(join(tmpdir(), 'payrelay-sockets-'));
  atTestEnd(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

async function statusAt(socketPath: string, { method = 'GET', path = '/health/live', body = '' } = {}) {
  const exchange = request({ socketPath, method, path, agent: false }).end(body);
  const [response] = await once(exchange, 'response');
  response.resume();
  return response.statusCode as number;
}

describe('an API process at a Unix socket', () => {
  it('accepts payments and stores them in a Redis at another socket', async () => {
    const dir = directory();
    const redisSocket = join(dir, 'redis.sock');
    const redis = await startRedis({ args: ['--unixsocket', redisSocket, '--requirepass', 'p@ss'] });
    atTestEnd(() => redis.dispose());
    const HOST = join(dir, 'api.sock');
    const api = await startApiProcess({ HOST, REDIS_HOST: redisSocket, REDIS_PASSWORD: 'p@ss' });
    const payment = aPayment();
    const post = { method: 'POST', path: '/payments', body: JSON.stringify(payment) };
    await eventually(async () => (await statusAt(HOST, { path: '/health' })) === 200);
    expect(await statusAt(HOST, post)).to.equal(204);
    const queue = await lookInto(QUEUE_PREFIX, redis.url.replace('//', '//:p%40ss@'));
    expect(await queue.waiting()).to.deep.equal([payment.correlationId]);
    // A load balancer runs as another user.
    expect(statSync(HOST).mode & 0o666).to.equal(0o666);
    expect(await api.stop()).to.equal(0);
    expect(existsSync(HOST)).to.equal(false);
  });

  it('replaces the socket of a killed process', async () => {
    const HOST = join(directory(), 'api.sock');
    const killed = await startApiProcess({ HOST, ...NO_REDIS });
    await killed.kill();
    expect(existsSync(HOST)).to.equal(true);
    await startApiProcess({ HOST, ...NO_REDIS });
    expect(await statusAt(HOST)).to.equal(200);
  });

  it('does not replace a socket at which another process listens', async () => {
    const HOST = join(directory(), 'api.sock');
    await startApiProcess({ HOST, ...NO_REDIS });
    const failure = await startApiProcess({ HOST, ...NO_REDIS }).catch((error: Error) => error);
    expect((failure as Error).message)
      .to.match(/ended with code 1/)
      .and.to.match(/EADDRINUSE/);
    expect(await statusAt(HOST)).to.equal(200);
  });

  it('does not replace a file that is not a socket', async () => {
    const HOST = join(directory(), 'notes');
    writeFileSync(HOST, 'mine');
    const failure = await startApiProcess({ HOST, ...NO_REDIS }).catch((error: Error) => error);
    expect((failure as Error).message).to.match(/ended with code 1/);
    expect(readFileSync(HOST, 'utf8')).to.equal('mine');
  });
});

describe('a ledger at a Unix socket', () => {
  it('is found by the directory of the socket', async () => {
    const dir = directory();
    // PostgreSQL may run as another user here.
    chmodSync(dir, 0o777);
    const postgres = await startPostgres({ settings: { unix_socket_directories: dir, listen_addresses: '' } });
    atTestEnd(() => postgres.dispose());
    const env = { DB_HOST: dir, DB_PORT: String(postgres.port), DB_USER: 'postgres', DB_NAME: 'postgres' };
    const db = createDb(loadConfig(env).database);
    try {
      expect(await query(db, 'SELECT 1 AS one')).to.deep.equal([{ one: 1 }]);
    } finally {
      await db.destroy();
    }
  });
});
