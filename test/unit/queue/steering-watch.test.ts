import { EventEmitter } from 'node:events';
import { expect } from 'chai';
import type { Redis } from 'ioredis';
import sinon from 'sinon';
import type { Steered } from '../../../src/queue/steering.ts';
import { TRUSTED_MS, watchSteering } from '../../../src/queue/steering-watch.ts';
import { atTestEnd } from '../../support/cleanup.ts';
import { recordingLogger } from '../../support/logger.ts';

const AT = Date.parse('2026-01-02T03:04:05.000Z');
const STOPPED = JSON.stringify({ state: 'stopped', who: 'ada', reason: 'maintenance', at: AT });

type Read = () => Promise<(string | null)[]>;

/** A watch under a fake clock, over a Redis whose reply the test chooses. */
function setUp(read: Read = async () => [null, null, null]) {
  const clock = sinon.useFakeTimers({ now: AT });
  atTestEnd(() => clock.restore());
  const redis = Object.assign(new EventEmitter(), { status: 'ready', hmget: sinon.stub().callsFake(read) });
  const changes: [string, Steered][] = [];
  const { logger, entries } = recordingLogger();
  const watch = watchSteering({
    redis: redis as unknown as Redis,
    queue: { name: 'payments', prefix: '{p}' },
    onChange: (gateway, steered) => changes.push([gateway, steered]),
    logger,
  });
  atTestEnd(() => watch.close());
  const replies = (next: Read) => redis.hmget.callsFake(next);
  return { clock, redis, changes, entries, watch, replies };
}

const loading = () => Promise.reject(Object.assign(new Error('LOADING Redis is loading'), { name: 'ReplyError' }));

describe('watchSteering', () => {
  it('is known after the first reading, and reports what is not open', async () => {
    const { clock, watch, changes } = setUp(async () => [STOPPED, null, null]);
    expect(watch.isKnown).to.equal(false);
    await clock.tickAsync(0);
    expect(watch.isKnown).to.equal(true);
    const by = { who: 'ada', reason: 'maintenance', at: new Date(AT).toISOString() };
    expect(changes).to.deep.equal([['primary', { state: 'stopped', by }]]);
  });

  it('reports a change within half a second, once', async () => {
    const { clock, changes, replies } = setUp();
    await clock.tickAsync(1);
    replies(async () => [null, STOPPED, null]);
    await clock.tickAsync(500);
    expect(changes.map(([gateway, { state }]) => [gateway, state])).to.deep.equal([['fallback', 'stopped']]);
    await clock.tickAsync(5_000);
    expect(changes).to.have.length(1);
    replies(async () => [null, '{"state":"open"}', null]);
    await clock.tickAsync(500);
    expect(changes.at(-1)).to.deep.equal(['fallback', { state: 'open' }]);
  });

  it('keeps the last known state while Redis replies errors, and has them as its fault', async () => {
    const { clock, changes, watch, replies, entries } = setUp(async () => [STOPPED, null, null]);
    await clock.tickAsync(1);
    replies(loading);
    await clock.tickAsync(5_000);
    expect(changes).to.have.length(1);
    expect(watch.fault).to.include({ code: 'loading' });
    expect(entries).to.have.length(1);
    replies(async () => [STOPPED, null, null]);
    await clock.tickAsync(500);
    expect(watch.fault).to.equal(undefined);
    expect(changes).to.have.length(1);
  });

  it('sends one command at a time', async () => {
    const { clock, redis } = setUp(() => new Promise(() => {}));
    await clock.tickAsync(5_000);
    expect(redis.hmget.callCount).to.equal(1);
  });

  it('sends none without a connection: the connection would queue them', async () => {
    const { clock, redis } = setUp();
    redis.status = 'reconnecting';
    const before = redis.hmget.callCount;
    await clock.tickAsync(5_000);
    expect(redis.hmget.callCount).to.equal(before);
  });

  it('must be read again before anything is sent when the last reading is too old', async () => {
    const { clock, watch, redis } = setUp();
    await clock.tickAsync(0);
    redis.status = 'reconnecting';
    await clock.tickAsync(TRUSTED_MS - 1);
    expect(watch.unread()).to.equal(undefined);
    await clock.tickAsync(1);
    let isRead = false;
    void watch.unread()!.then(() => {
      isRead = true;
    });
    await clock.tickAsync(5_000);
    expect(isRead).to.equal(false);
    redis.status = 'ready';
    redis.emit('ready');
    await clock.tickAsync(0);
    expect(isRead).to.equal(true);
    expect(watch.unread()).to.equal(undefined);
  });

  it('notices that the machine was suspended by its wall clock', async () => {
    const { clock, watch } = setUp();
    await clock.tickAsync(0);
    clock.setSystemTime(AT + TRUSTED_MS);
    expect(watch.unread()).to.be.instanceOf(Promise);
  });

  it('lets everything go when it is closed', async () => {
    const { clock, watch, redis } = setUp();
    redis.status = 'reconnecting';
    await clock.tickAsync(TRUSTED_MS + 500);
    const reading = watch.unread();
    watch.close();
    await reading;
    await watch.known();
    expect(watch.unread()).to.equal(undefined);
  });
});
