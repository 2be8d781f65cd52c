import { expect } from 'chai';
import { LedgerUnavailableError } from '../../../src/errors.ts';
import {
  DOUBTED,
  FOUND,
  FREE,
  ID,
  LOOK_UP_FAILED,
  ON_NEVER,
  ON_RECORD,
  PAID,
  POOL_TIMEOUT,
  REFUSED,
  REQUEUED_CLEAN,
  UNREACHABLE,
  UNRESOLVED,
} from './given.ts';
import { expectRequeue, openWithoutProbes, stage } from './stage.ts';

describe('processPayment, under FALLBACK_ON=never', () => {
  it('asks the fallback before the first send, and pays at the primary when the fallback does not have the payment', async () => {
    const { run, events } = stage({ primary: [PAID], policy: ON_NEVER });
    expect(await run()).to.equal('completed');
    expect(events).to.deep.equal(['look up', 'ask fallback', 'send to primary', 'record']);
  });

  it('binds and records a payment that the fallback has on record, and sends nothing', async () => {
    const { run, events, recorded } = stage({ fallbackLookUp: FOUND, policy: ON_NEVER });
    expect(await run()).to.equal('completed');
    expect(events).to.deep.equal(['look up', 'ask fallback', 'bind to fallback', 'record']);
    expect(recorded).to.deep.equal([{ correlationId: ID, gateway: 'fallback', ...ON_RECORD }]);
  });

  it('leaves a payment bound to the fallback when it is on record there and the ledger cannot record it', async () => {
    const record = () => Promise.reject(new LedgerUnavailableError('no reply'));
    const { run, events } = stage({ fallbackLookUp: FOUND, policy: ON_NEVER, record });
    expectRequeue(await run(), { end: 'unresolved', pause: 'backoff', code: 'ledger_unavailable' });
    expect(events).to.deep.equal(['look up', 'ask fallback', 'bind to fallback', 'record']);
  });

  it('waits with the pauses of a tied payment while the look-up at the fallback fails', async () => {
    const { run, events } = stage({ fallbackLookUp: LOOK_UP_FAILED, policy: ON_NEVER });
    const end = await run();
    expectRequeue(end, { end: 'clean', pause: 'tied', code: 'http_503' });
    expect((end as Error).message).to.include('HTTP 503');
    expect(events).to.deep.equal(['look up', 'ask fallback']);
  });

  it('asks in every run that may send to the primary: an earlier run may have died before the response', async () => {
    for (const state of [FREE, REQUEUED_CLEAN, UNRESOLVED, DOUBTED]) {
      const { run, events } = stage({ fallbackLookUp: FOUND, policy: ON_NEVER });
      expect(await run(state)).to.equal('completed');
      expect(events).to.deep.equal(['look up', 'ask fallback', 'bind to fallback', 'record']);
    }
  });

  it('asks for a payment that a dead letter ties to the primary', async () => {
    const { run, events } = stage({
      primary: [PAID],
      policy: ON_NEVER,
      lookUp: async () => ({ isRecorded: false, tiedTo: 'primary' }),
    });
    expect(await run()).to.equal('completed');
    expect(events).to.deep.equal(['look up', 'ask fallback', 'send to primary', 'record']);
  });

  it('does not use the fallback after any outcome, even with FALLBACK_AFTER_MS', async () => {
    for (const outcome of [POOL_TIMEOUT, UNREACHABLE, REFUSED]) {
      const { run, sends } = stage({ primary: [outcome], policy: { on: 'never', afterMs: 0 } });
      expectRequeue(await run({ ageMs: 1e9 }), { end: 'clean', pause: 'backoff' });
      expect(sends('fallback')).to.equal(0);
    }
  });

  it('waits for a primary whose circuit is open, however long', async () => {
    const { start, clock, sends, primary } = stage({ policy: { on: 'never', afterMs: 0 } });
    await openWithoutProbes(primary, UNREACHABLE);
    const running = start({ ageMs: 1e9 });
    await clock.tickAsync(60_000);
    expect(running.end).to.equal(undefined);
    expect(sends('fallback')).to.equal(0);
  });
});
