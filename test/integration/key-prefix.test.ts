import { expect } from 'chai';
import { startRedis } from '../../dev/local/redis.ts';
import { startApiProcess } from '../support/api-process.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { http } from '../support/http-client.ts';
import { lookInto } from '../support/queue.ts';
import { aPayment, eventually, testGateway, testWorker } from '../support/relay.ts';
import { freshDatabase, sql } from '../support/services.ts';

describe('two stacks with different prefixes on one Redis', () => {
  it('do not touch each other', async () => {
    const redis = await startRedis();
    atTestEnd(() => redis.dispose());
    const gateway = await testGateway();
    const stack = async (prefix: string) => {
      const env = { REDIS_URL: redis.url, DATABASE_URL: await freshDatabase(), REDIS_KEY_PREFIX: prefix };
      const api = await startApiProcess({ ...env, ALLOW_PURGE: 'true' });
      await eventually(async () => (await http(api.url).get('/health')).status === 200);
      return {
        api: http(api.url),
        queue: await lookInto(`{${prefix}}`, redis.url),
        work: () => testWorker({ ...env, GATEWAY_PRIMARY_URL: gateway.url }, `{${prefix}}`),
        rows: () => sql(env.DATABASE_URL, 'SELECT correlation_id FROM payments'),
      };
    };
    const one = await stack('one');
    const two = await stack('one:two');
    const payment = aPayment();
    for (const { api } of [one, two]) await api.post('/payments').send(payment).expect(204);
    for (const { queue } of [one, two]) expect(await queue.waiting()).to.deep.equal([payment.correlationId]);
    const keys = await one.queue.redis.keys('*');
    expect(
      keys.filter((key) => !/^\{one(:two)?\}:(payments:|heartbeat|accepted:|fleet$|shards$)/.test(key)),
    ).to.deep.equal([]);

    await one.queue.redis.zadd(two.queue.key('unresolved'), 1, payment.correlationId);
    await one.api.post('/purge-payments').expect(200);
    expect(await one.queue.waiting()).to.deep.equal([]);
    expect(await two.queue.waiting()).to.deep.equal([payment.correlationId]);
    expect(await two.queue.redis.zcard(two.queue.key('unresolved'))).to.equal(1);

    const workersOf = async ({ api }: typeof one) => (await api.get('/health')).body.workers;
    await one.work();
    await eventually(async () => (await workersOf(one)) === 1);
    expect(await workersOf(two)).to.equal(0);
    await two.work();
    await eventually(async () => (await two.rows()).length === 1);
    expect(await one.rows()).to.deep.equal([]);
    expect(
      (await one.queue.redis.keys('*')).filter(
        (key) => !/^\{one(:two)?\}:(payments:|heartbeat|accepted:|fleet$|shards$)/.test(key),
      ),
    ).to.deep.equal([]);
  });
});
