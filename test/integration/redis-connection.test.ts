import { once } from 'node:events';
import { expect } from 'chai';
import { loadConfig } from '../../src/config.ts';
import { createProducerConnection, createWorkerConnection } from '../../src/queue/redis.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { sharedRedis } from '../support/services.ts';

type Create = typeof createWorkerConnection;

/** Disconnects a connection while it connects for the second time. Resolves at its next event of this name. */
async function disconnected(create: Create, { anew }: { anew: boolean }, event: 'ready' | 'end') {
  const redis = create(loadConfig({ REDIS_URL: (await sharedRedis()).url }).redis);
  redis.on('error', () => {});
  atTestEnd(() => redis.disconnect());
  await once(redis, 'ready');
  // Not `once` of Node: it rejects at the error events of the lost connection.
  const happened = new Promise((resolve) => redis.once(event, resolve));
  redis.once('connecting', () => redis.disconnect(anew));
  redis.disconnect(true);
  await happened;
  return redis;
}

describe('connection to Redis', () => {
  for (const create of [createProducerConnection, createWorkerConnection]) {
    describe(create.name, () => {
      it('connects again when it is told to while it connects', async () => {
        const redis = await disconnected(create, { anew: true }, 'ready');
        expect(await redis.ping()).to.equal('PONG');
      });

      it('stays closed when it is closed while it connects', async () => {
        const redis = await disconnected(create, { anew: false }, 'end');
        expect(redis.status).to.equal('end');
      });
    });
  }
});
