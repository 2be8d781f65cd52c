import { expect } from 'chai';
import sinon from 'sinon';
import { startRedis } from '../../dev/local/redis.ts';
import { createRedisClock } from '../../src/queue/redis-clock.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { exchange } from '../support/http-client.ts';
import { connectedApi, lookInto } from '../support/queue.ts';
import { aPayment, eventually, testRedis } from '../support/relay.ts';

async function clockOver(redis: Awaited<ReturnType<typeof testRedis>>, refreshMs?: number) {
  const clock = createRedisClock({ redis, key: '{payrelay}:payments:meta', ...(refreshMs && { refreshMs }) });
  atTestEnd(() => clock.close());
  await clock.known();
  return clock;
}

/** Redis' time in ms. */
async function redisTime(redis: Awaited<ReturnType<typeof testRedis>>): Promise<number> {
  const [seconds, microseconds] = await redis.time();
  return Number(seconds) * 1_000 + Number(microseconds) / 1_000;
}

describe('createRedisClock', () => {
  it("has Redis' time to within a round trip", async () => {
    const redis = await testRedis();
    const clock = await clockOver(redis);
    const before = clock.nowMs();
    const actual = await redisTime(redis);
    const after = clock.nowMs();
    expect(actual).to.be.within(before - 25, after + 25);
  });

  it('does not move when the wall clock of its process steps', async () => {
    const redis = await testRedis();
    const clock = await clockOver(redis);
    const fake = sinon.useFakeTimers({ now: Date.now() - 3_600_000, toFake: ['Date'] });
    atTestEnd(() => fake.restore());
    expect(clock.nowMs() - Date.now()).to.be.above(3_500_000);
    expect(Math.abs(clock.nowMs() - (await redisTime(redis)))).to.be.below(100);
  });

  it('is known as soon as Redis is up, and not before', async () => {
    const server = await startRedis();
    atTestEnd(() => server.dispose());
    const redis = await testRedis(server.url);
    redis.on('error', () => {});
    await server.stop();
    await eventually(() => redis.status !== 'ready');
    const clock = createRedisClock({ redis, key: 'x' });
    atTestEnd(() => clock.close());
    expect(clock.isKnown).to.equal(false);
    await server.start();
    await clock.known();
    expect(Math.abs(clock.nowMs() - (await redisTime(redis)))).to.be.below(100);
  });
});

describe('a payment in the queue', () => {
  it("is stamped with Redis' time, even if the clock of the API node is wrong", async () => {
    const api = await connectedApi();
    const queue = await lookInto(api.prefix);
    const fake = sinon.useFakeTimers({ now: Date.now() - 3_600_000, toFake: ['Date'] });
    atTestEnd(() => fake.restore());
    const payment = aPayment();
    const before = await redisTime(queue.redis);
    expect((await exchange(`${api.url}/payments`, { body: JSON.stringify(payment) })).status).to.equal(204);
    const { timestamp } = await queue.job(payment.correlationId);
    expect(Number(timestamp)).to.be.within(Math.floor(before), await redisTime(queue.redis));
  });
});
