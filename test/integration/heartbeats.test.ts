import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { startRedis } from '../../dev/local/redis.ts';
import { startHeartbeat } from '../../src/queue/heartbeats.ts';
import { createWorkerConnection } from '../../src/queue/redis.ts';
import { events } from '../../src/telemetry/events.ts';
import { createTelemetry } from '../../src/telemetry/telemetry.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { recordingLogger } from '../support/logger.ts';
import { eventually, testRedis } from '../support/relay.ts';

const PREFIX = '{payrelay}';

/** The heartbeat of a worker over a Redis of the test's own. */
async function stage(user = '') {
  const server = await startRedis();
  atTestEnd(() => server.dispose());
  const admin = await testRedis(server.url);
  admin.on('error', () => {});
  if (user !== '') await admin.call('ACL', 'SETUSER', user, 'on', '>password', '~*', '&*', '+@all');
  const url = user === '' ? server.url : server.url.replace('//', `//${user}:password@`);
  const redis = createWorkerConnection({ url, clusterNodes: [] });
  redis.on('error', () => {});
  atTestEnd(() => redis.disconnect());
  await once(redis, 'ready');
  const { logger, entries } = recordingLogger();
  const telemetry = createTelemetry({ role: 'worker', version: 'test' });
  atTestEnd(() => telemetry.close());
  const beats = { begun: 0 };
  const heartbeat = startHeartbeat({
    redis,
    queue: { name: 'payments', prefix: PREFIX },
    heartbeat() {
      beats.begun += 1;
      return telemetry.heartbeat();
    },
    logger,
  });
  atTestEnd(() => heartbeat.close());
  const isWritten = async () => (await admin.zcard(`${PREFIX}:heartbeats`)) === 1;
  await eventually(isWritten);
  // Its reply comes after that of the heartbeat.
  await redis.ping();
  return { server, admin, redis, entries, beats, close: () => heartbeat.close() };
}

describe('a heartbeat', () => {
  it('that Redis refuses is logged once, and is written again by itself', async () => {
    const { admin, entries, beats } = await stage('payrelay');
    await admin.call('ACL', 'SETUSER', 'payrelay', '-zadd');
    const before = beats.begun;
    await eventually(() => beats.begun >= before + 3);
    expect(entries.map(({ level, code }) => [level, code])).to.deep.equal([['warn', 'missing_right']]);
    await admin.call('ACL', 'SETUSER', 'payrelay', '+zadd');
    await eventually(() => entries.length === 2);
    expect(entries[1]).to.include({ level: 'info', code: 'missing_right' });
  });

  it('adds to the minute what was accepted since the last one, also since one that Redis has refused', async () => {
    const { admin, beats } = await stage('payrelay');
    const accept = (count: number) => {
      for (let n = 0; n < count; n += 1) {
        events.requestFinished.publish({ route: '/payments', method: 'POST', status: 204, durationMs: 1 });
      }
    };
    const minutes = async () => {
      const keys = await admin.keys(`${PREFIX}:accepted:*`);
      return Promise.all(keys.map(async (key) => Number(await admin.get(key))));
    };
    const accepted = async () => (await minutes()).reduce((sum, count) => sum + count, 0);
    accept(3);
    await eventually(async () => (await accepted()) === 3);
    await admin.call('ACL', 'SETUSER', 'payrelay', '-zadd');
    accept(4);
    const before = beats.begun;
    await eventually(() => beats.begun >= before + 3);
    expect(await accepted()).to.equal(3);
    await admin.call('ACL', 'SETUSER', 'payrelay', '+zadd');
    await eventually(async () => (await accepted()) === 7);
    const [key] = await admin.keys(`${PREFIX}:accepted:*`);
    expect(await admin.pttl(key!)).to.be.within(7_100_000, 7_200_000);
  });

  it('sends one command at most while Redis hangs, and its end does not wait for Redis', async () => {
    const { server, beats, close } = await stage();
    expect(beats.begun).to.equal(1);
    server.signal('SIGSTOP');
    atTestEnd(() => server.signal('SIGCONT'));
    await eventually(() => beats.begun === 2);
    await sleep(2_500);
    expect(beats.begun).to.equal(2);
    const startedAt = performance.now();
    await close();
    expect(performance.now() - startedAt).to.be.below(1_000);
  });

  it('is not written while Redis is down, and at once when it is back', async () => {
    const { server, redis, beats } = await stage();
    await server.stop();
    await eventually(() => redis.status !== 'ready');
    const before = beats.begun;
    await sleep(2_500);
    expect(beats.begun).to.equal(before);
    await server.start();
    await once(redis, 'ready');
    const startedAt = performance.now();
    await eventually(() => beats.begun > before);
    expect(performance.now() - startedAt).to.be.below(900);
  });
});
