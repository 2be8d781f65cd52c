import { expect } from 'chai';
import { LedgerUnavailableError } from '../../../src/errors.ts';
import { DeadLetterError } from '../../../src/processing/payment-run.ts';
import { ACCEPTED_AT, BOUND, BOUND_AND_UNRESOLVED, DOUBTED, FREE, ID, STATES, UNRESOLVED } from './given.ts';
import { expectDeadLetter, expectRequeue, stage } from './stage.ts';

/** BullMQ numbers the job of a payload without a valid id. */
const INVALID = { jobId: '17', payload: { correlationId: 'x', amount: 0 } };
const MISSING = { payload: {}, readPayloadText: async () => undefined };

describe('processPayment, dead letters', () => {
  it('buries an invalid payload with every fault and sends nothing, whatever the state', async () => {
    for (const state of STATES) {
      const { run, events, letters } = stage();
      const end = await run({ ...INVALID, ...state });
      expect(end).to.be.instanceOf(DeadLetterError);
      expect((end as Error).message)
        .to.match(/^invalid_payment: /)
        .and.include('correlationId')
        .and.include('amount');
      expect(events).to.deep.equal(['bury']);
      expect(letters[0]).to.include({ code: 'invalid_payment', correlationId: undefined });
    }
  });

  it('keeps the id of an invalid payload that has one', async () => {
    const { run, letters } = stage();
    await run({ payload: { correlationId: ID.toUpperCase(), amount: -1 } });
    expect(letters[0]).to.include({ correlationId: ID, amountText: '-1' });
  });

  it('buries payloads that are not objects', async () => {
    for (const payload of [null, 7, 'text', [], true]) {
      const { run, letters } = stage();
      expect(await run({ jobId: '17', payload })).to.be.instanceOf(DeadLetterError);
      expect(letters[0]).to.include({ code: 'invalid_payment', correlationId: undefined, amountText: undefined });
    }
  });

  it('keeps the payload as it was posted, its time of acceptance and the number of runs', async () => {
    const { run, letters } = stage();
    const text = '{"correlationId":"x",  "amount":0.10}';
    await run({
      payload: JSON.parse(text),
      readPayloadText: async () => text,
      history: { runs: 4, isUnresolved: false, doubts: 0, doubtedSinceMs: undefined },
    });
    expect(letters[0]).to.include({ jobId: ID, payload: text, acceptedAt: ACCEPTED_AT, attempts: 5 });
  });

  it('buries a payment that has lost its payload, under the id of its job', async () => {
    const { run, events, letters } = stage();
    expect(await run(MISSING)).to.be.instanceOf(DeadLetterError);
    expect(events).to.deep.equal(['bury']);
    expect(letters[0]).to.include({ code: 'payload_missing', correlationId: ID, payload: undefined });
  });

  it('ties a payment that has lost its payload to the gateway at which it may be paid', async () => {
    const rows = [
      { state: FREE, gateway: 'primary' },
      { state: UNRESOLVED, gateway: 'primary' },
      { state: DOUBTED, gateway: 'primary' },
      { state: BOUND, gateway: 'fallback' },
      { state: BOUND_AND_UNRESOLVED, gateway: 'fallback' },
    ];
    for (const { state, gateway } of rows) {
      const { run, letters } = stage();
      await run({ ...MISSING, ...state });
      expect(letters[0]).to.include({ gateway });
    }
  });

  it('ties an invalid payment to the gateway at which an earlier one of its id may be paid', async () => {
    for (const [state, gateway] of [
      [FREE, undefined],
      [UNRESOLVED, 'primary'],
      [BOUND, 'fallback'],
    ] as const) {
      const { run, letters } = stage();
      await run({ ...INVALID, ...state });
      expect(letters[0]).to.include({ gateway });
    }
  });

  it('ends the run as a dead letter only when the row is committed', async () => {
    const committed = Promise.withResolvers<void>();
    const { start, clock } = stage({ bury: () => committed.promise });
    const running = start(MISSING);
    await clock.tickAsync(60_000);
    expect(running.end).to.equal(undefined);
    committed.resolve();
    await clock.tickAsync(0);
    expectDeadLetter(running.end, (running.end as Error).message);
  });

  it('requeues with a pause when the row cannot be committed', async () => {
    for (const error of [new LedgerUnavailableError('no reply'), new Error('permission denied')]) {
      const { run } = stage({ bury: () => Promise.reject(error) });
      expectRequeue(await run(INVALID), { end: 'clean', pause: 'backoff', code: 'ledger_unavailable' });
    }
  });

  it('requeues with a pause when the payload cannot be read', async () => {
    const { run, events } = stage();
    const readPayloadText = () => Promise.reject(new Error('Connection is closed.'));
    expectRequeue(await run({ ...INVALID, readPayloadText }), { end: 'clean', pause: 'backoff' });
    expect(events).to.deep.equal([]);
  });
});
