import { expect } from 'chai';
import {
  BusyError,
  InvalidRequestError,
  LedgerUnavailableError,
  NotFoundError,
  QueueUnavailableError,
} from '../../../src/errors.ts';
import type { DeadLetterRow, PaymentInLedger } from '../../../src/ledger/find-payment.ts';
import { createPaymentStatus } from '../../../src/operations/payment-status.ts';
import type { FoundJob, QueuedJob } from '../../../src/queue/find-payment.ts';
import type { QueueState } from '../../../src/queue/queue-state.ts';

const ID = '4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3';
const AT = new Date('2026-01-01T12:00:00.000Z');

type Job = FoundJob | undefined | QueueUnavailableError;
type Row = Partial<PaymentInLedger> | LedgerUnavailableError;

const QUEUED = {
  kind: 'queued',
  data: '{"amount":19.9}',
  acceptedAt: AT,
  attempts: 0,
  notClean: 0,
  doubts: 0,
} as QueuedJob;
const FAILED: FoundJob = {
  kind: 'failed',
  job: {
    id: ID,
    data: `{"correlationId":"${ID}","amount":-1}`,
    reason: 'invalid_payment: amount must be more than 0',
    acceptedAt: AT,
    diedAt: AT,
    attempts: 1,
    isClean: true,
    isBoundToFallback: false,
    isBuried: false,
  },
};
const PAID = { recorded: { gateway: 'fallback', amountCents: 1990, requestedAt: AT, recordedAt: AT } } as const;
const deadLetter = (fields: Partial<DeadLetterRow> = {}): Row => ({
  deadLetter: {
    state: 'open',
    code: 'rejected',
    reason: 'primary gateway: HTTP 400',
    gateway: 'primary',
    amountText: '19.9',
    attempts: 4,
    acceptedAt: AT,
    diedAt: AT,
    stateAt: AT,
    ...fields,
  },
});
const REDIS_DOWN = new QueueUnavailableError('down');
const LEDGER_DOWN = new LedgerUnavailableError('down');

/** Stores that reply these one after the other; the last one for ever. `reads` lists the order. */
function stage(jobs: readonly Job[], rows: readonly Row[]) {
  const reads: string[] = [];
  const next = <T>(replies: readonly T[], kind: string): T => {
    const count = reads.filter((each) => each.startsWith(kind)).length;
    reads.push(kind);
    return replies[Math.min(count, replies.length - 1)]!;
  };
  const find = createPaymentStatus({
    jobs: {
      find: async (ids) => {
        const job = next(jobs, 'redis');
        return ids.map(() => job);
      },
    },
    ledger: {
      find: async (ids) => {
        const row = next(rows, 'ledger');
        if (row instanceof Error) throw row;
        return new Map(ids.map((id) => [id, { recorded: undefined, deadLetter: undefined, ...row }]));
      },
    },
    queueWatch: { read: async () => ({ heartbeats: [], isPaused: false }) as unknown as QueueState },
  });
  const fails = (id = ID): Promise<unknown> =>
    find(id).then(
      (status) => status,
      (error: unknown) => error,
    );
  return { find, fails, reads };
}

describe('paymentStatus', () => {
  it('reads Redis before PostgreSQL, once, for a payment that is in one of them', async () => {
    const queued = stage([QUEUED], [{}]);
    expect(await queued.find(ID)).to.include({ state: 'queued', amount: 19.9, correlationId: ID });
    expect(queued.reads).to.deep.equal(['redis', 'ledger']);
    const paid = stage([undefined], [PAID]);
    expect(await paid.find(ID.toUpperCase())).to.deep.equal({
      correlationId: ID,
      state: 'paid',
      amount: 19.9,
      gateway: 'fallback',
      requestedAt: AT,
      recordedAt: AT,
    });
    expect(paid.reads).to.deep.equal(['redis', 'ledger']);
  });

  it('says paid although a job is there: it has not ended, or the id was posted again', async () => {
    for (const job of [QUEUED, FAILED]) expect((await stage([job], [PAID]).find(ID)).state).to.equal('paid');
  });

  it('looks a second time for what neither had, in the same order', async () => {
    const posted = stage([undefined, QUEUED], [{}]);
    expect((await posted.find(ID)).state).to.equal('queued');
    expect(posted.reads).to.deep.equal(['redis', 'ledger', 'redis', 'ledger']);
    expect((await stage([undefined, undefined], [{}, PAID]).find(ID)).state).to.equal('paid');
    expect((await stage([undefined, QUEUED], [{}, PAID]).find(ID)).state).to.equal('paid');
  });

  it('throws NotFoundError when neither has it twice', async () => {
    const { fails, reads } = stage([undefined], [{}]);
    expect(await fails()).to.be.instanceOf(NotFoundError);
    expect(reads).to.have.length(4);
  });

  it('is a dead letter by its open row, read once', async () => {
    const { find, reads } = stage([undefined], [deadLetter()]);
    expect(await find(ID)).to.deep.equal({
      correlationId: ID,
      state: 'dead_letter',
      amount: 19.9,
      acceptedAt: AT,
      attempts: 4,
      boundTo: 'primary',
      reason: 'rejected',
      detail: 'primary gateway: HTTP 400',
      since: AT,
    });
    expect(reads).to.have.length(2);
  });

  it('looks a second time for the job of a row that is queued again, and without one it is a dead letter', async () => {
    const again = deadLetter({ state: 'queued_again' });
    expect((await stage([undefined, QUEUED], [again]).find(ID)).state).to.equal('unresolved');
    expect((await stage([undefined], [again]).find(ID)).state).to.equal('dead_letter');
  });

  it('is discarded by a row that an operator closed, since then', async () => {
    const closedAt = new Date(AT.getTime() + 1_000);
    const closed = deadLetter({ state: 'discarded', stateAt: closedAt });
    for (const job of [undefined, FAILED]) {
      expect(await stage([job], [closed]).find(ID)).to.deep.include({
        state: 'discarded',
        boundTo: undefined,
        since: closedAt,
      });
    }
  });

  it('is a dead letter by a failed job whose own row is missing', async () => {
    const earlier = deadLetter({ state: 'discarded', acceptedAt: new Date(0) });
    for (const row of [{}, earlier]) {
      expect(await stage([FAILED], [row]).find(ID)).to.deep.include({
        state: 'dead_letter',
        reason: 'invalid_payment',
        detail: 'amount must be more than 0',
        amount: undefined,
        attempts: 1,
      });
    }
  });

  it('throws QueueUnavailableError for all but a recorded payment while Redis is down', async () => {
    expect((await stage([REDIS_DOWN], [PAID]).find(ID)).state).to.equal('paid');
    for (const row of [{}, deadLetter(), deadLetter({ state: 'discarded' })]) {
      expect(await stage([REDIS_DOWN], [row]).fails()).to.equal(REDIS_DOWN);
    }
  });

  it('throws LedgerUnavailableError for every payment while PostgreSQL is down', async () => {
    for (const job of [QUEUED, FAILED, undefined, REDIS_DOWN]) {
      expect(await stage([job], [LEDGER_DOWN]).fails()).to.equal(LEDGER_DOWN);
    }
  });

  it('throws InvalidRequestError for what is no UUID, and reads nothing', async () => {
    const { fails, reads } = stage([undefined], [{}]);
    const error = await fails('4a7901b8');
    expect(error).to.be.instanceOf(InvalidRequestError);
    expect((error as InvalidRequestError).details).to.deep.equal({
      errors: [{ param: 'correlationId', message: 'must be a UUID' }],
    });
    expect(reads).to.deep.equal([]);
  });

  it('throws BusyError for the 1,001st call at once, and reads for 50 ids at a time', async () => {
    const { fails, reads } = stage([QUEUED], [{}]);
    const id = (n: number) => `00000000-0000-4000-8000-${n.toString(16).padStart(12, '0')}`;
    const results = await Promise.all(Array.from({ length: 1_001 }, (_, n) => fails(id(n))));
    expect(results.filter((result) => result instanceof BusyError)).to.deep.equal([results[1_000]]);
    expect(results[999]).to.include({ correlationId: id(999), state: 'queued' });
    expect(reads).to.have.length(2 * 20);
  });
});
