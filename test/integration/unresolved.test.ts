import { expect } from 'chai';
import { aPayment, eventually } from '../support/relay.ts';
import { respond } from '../support/scripted-gateway.ts';
import { scriptedRelay } from '../support/scripted-relay.ts';

/** Nothing listens on this port, so a payment is certainly not sent. */
const NO_PRIMARY = { GATEWAY_PRIMARY_URL: 'http://127.0.0.1:1', FALLBACK_AFTER_MS: 'never' };

describe('the lists of unresolved payments', () => {
  it('have a payment that may be paid at the primary, with its reason, also while it stays in its worker', async () => {
    const relay = await scriptedRelay();
    relay.primary.onPayment = () => respond(502, '');
    const ids = await relay.postMany(3);
    await relay.work();
    // The third failure opens the circuit. Its payment stays in the worker as a probe, in its first run.
    const { reasonCode, reason, since } = await eventually(async () => {
      const listed = await relay.unresolved();
      const [active] = await relay.active();
      if (active === undefined || !listed.includes(active)) return undefined;
      const job = await relay.job(active);
      return job['ats'] === '1' && job;
    });
    expect(reasonCode).to.equal('http_502');
    expect(reason).to.match(/^primary gateway: /);
    expect(Number(since)).to.be.above(0);
    expect(await relay.unresolved('unresolved-fallback')).to.deep.equal([]);
    relay.primary.onPayment = () => undefined;
    await relay.hurry(ids);
    await relay.recorded(ids);
    await relay.drained();
    expect(await relay.unresolved()).to.deep.equal([]);
  });

  it('have a payment that is bound to the fallback in a list of their own', async () => {
    const relay = await scriptedRelay(NO_PRIMARY);
    relay.fallback.onPayment = () => respond(502, '');
    const id = await relay.post();
    await relay.work();
    await eventually(async () => (await relay.unresolved('unresolved-fallback')).length === 1);
    expect(await relay.unresolved()).to.deep.equal([]);
    relay.fallback.onPayment = () => undefined;
    await relay.hurry([id]);
    await relay.recorded([id]);
    await relay.drained();
    expect(await relay.unresolved('unresolved-fallback')).to.deep.equal([]);
  });

  it('are put right when an earlier version has listed a payment under the wrong gateway, or one has no job', async () => {
    const relay = await scriptedRelay(NO_PRIMARY);
    relay.fallback.onPayment = () => respond(502, '');
    const id = await relay.post();
    await relay.work();
    await eventually(async () => (await relay.unresolved('unresolved-fallback')).length === 1);
    const [list, other] = [relay.key('unresolved'), relay.key('unresolved-fallback')];
    await relay.redis.multi().zrem(other, id).zadd(list, 1_000, id).exec();
    await relay.redis.zadd(list, 2_000, aPayment().correlationId);
    await relay.redis.zadd(other, 2_000, aPayment().correlationId);
    await eventually(async () => (await relay.redis.zscore(other, id)) === '1000');
    await eventually(async () => (await relay.unresolved()).length === 0);
    expect(await relay.unresolved('unresolved-fallback')).to.deep.equal([id]);
  });

  it('reach every entry, however many come before it', async () => {
    const relay = await scriptedRelay(NO_PRIMARY);
    relay.fallback.onPayment = () => respond(502, '');
    await relay.post();
    await relay.work();
    await eventually(async () => (await relay.unresolved('unresolved-fallback')).length === 1);
    const list = relay.key('unresolved-fallback');
    for (let score = 0; score < 220; score += 1) {
      await relay.redis.hset(relay.key(`live-${score}`), 'progress', '{"gateway":"fallback"}');
      await relay.redis.zadd(list, score, `live-${score}`);
    }
    await relay.redis.zadd(list, 1_000, 'without-a-job');
    await eventually(async () => (await relay.redis.zscore(list, 'without-a-job')) === null, 9_000);
    expect(await relay.redis.zcard(list)).to.equal(221);
  });
});
