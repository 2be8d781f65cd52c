import { expect } from 'chai';
import type { DeadLetterRow } from '../../../src/ledger/find-payment.ts';
import { reasonOf } from '../../../src/operations/payment-reason.ts';
import type { QueuedJob } from '../../../src/queue/find-payment.ts';
import type { QueueState } from '../../../src/queue/queue-state.ts';
import type { Heartbeat, WorkerVitals } from '../../../src/telemetry/heartbeat.ts';

const ACCEPTED = new Date('2026-01-01T12:00:00.000Z');
const STARTED = new Date('2026-01-01T12:00:01.000Z');
const EARLIER = '2026-01-01T11:00:00.000Z';
const LATER = '2026-01-01T11:30:00.000Z';

/** A job that waits for its first run. */
function job(fields: Partial<QueuedJob> = {}): QueuedJob {
  return {
    kind: 'queued',
    data: '{}',
    acceptedAt: ACCEPTED,
    attempts: 0,
    notClean: 0,
    doubts: 0,
    boundTo: undefined,
    lock: undefined,
    noted: undefined,
    failure: undefined,
    startedAt: undefined,
    attemptedAt: undefined,
    released: undefined,
    ...fields,
  };
}

const taken = (fields: Partial<QueuedJob> = {}) => job({ attempts: 1, lock: 'w1:3', startedAt: STARTED, ...fields });

function vitals(fields: Partial<WorkerVitals> = {}): Pick<Heartbeat, 'worker'> {
  const gateways = { primary: { waiting: 0 }, fallback: { waiting: 0 } };
  return { worker: { workerId: 'w1', concurrency: 4, inFlight: 1, gateways, ...fields } };
}

function queue(heartbeats: readonly Partial<Heartbeat>[] = [vitals()], fields: Partial<QueueState> = {}): QueueState {
  return {
    isPaused: false,
    memory: undefined,
    heartbeatFault: undefined,
    ...fields,
    heartbeats,
  } as QueueState;
}

const down = (since = EARLIER) => ({ code: 'http_502', detail: 'HTTP 502', since });
const primaryDown = (since?: string) => ({ primary: { waiting: 1, down: down(since) }, fallback: { waiting: 0 } });

const row = (fields: Partial<DeadLetterRow> = {}): DeadLetterRow => ({
  state: 'open',
  code: 'rejected',
  reason: 'fallback gateway: HTTP 400',
  gateway: 'fallback',
  amountText: '1',
  attempts: 4,
  acceptedAt: ACCEPTED,
  diedAt: STARTED,
  stateAt: STARTED,
  ...fields,
});

describe('the reason of a payment in the queue', () => {
  it('is its turn while a worker runs', () => {
    expect(reasonOf(job(), undefined, queue())).to.deep.include({
      state: 'queued',
      reason: 'waits_its_turn',
      since: ACCEPTED,
      boundTo: undefined,
    });
  });

  it('is the pause first, since an API node saw it', () => {
    const state = queue([{ problems: { queue_paused: LATER } }, { problems: { queue_paused: EARLIER } }], {
      isPaused: true,
    });
    expect(reasonOf(job(), undefined, state)).to.deep.include({ reason: 'queue_paused', since: new Date(EARLIER) });
    const unseen = reasonOf(job(), undefined, queue([], { isPaused: true }));
    expect(unseen).to.deep.include({ reason: 'queue_paused', since: ACCEPTED });
  });

  it('is the pause since, and with the reason for which, an operator paused the queue', () => {
    const pausedBy = { who: 'ada', reason: 'a restore', at: LATER };
    const found = reasonOf(job(), undefined, queue([], { isPaused: true, pausedBy }));
    expect(found).to.deep.include({ detail: 'ada has paused the queue: a restore', since: new Date(LATER) });
  });

  it('is gateway_stopped while an operator has stopped the primary in every worker', () => {
    const stopped = { code: 'stopped', detail: 'stopped by ada: maintenance', since: EARLIER };
    const gateways = { primary: { waiting: 1, down: stopped }, fallback: { waiting: 0 } };
    expect(reasonOf(job(), undefined, queue([vitals({ gateways })]))).to.deep.include({
      reason: 'gateway_stopped',
      detail: 'the primary gateway is stopped by ada: maintenance',
      since: new Date(EARLIER),
    });
    expect(reasonOf(taken(), undefined, queue([vitals({ gateways })])).reason).to.equal('gateway_stopped');
    const noted = {
      code: 'stopped',
      detail: 'primary gateway: not accepting, stopped by ada',
      since: new Date(EARLIER),
    };
    const tied = reasonOf(job({ attempts: 1, notClean: 1, noted }), undefined, queue());
    expect(tied).to.deep.include({ state: 'unresolved', boundTo: 'primary', reason: 'gateway_stopped' });
  });

  it('is no_worker without a heartbeat of a worker', () => {
    expect(reasonOf(job(), undefined, queue([{ role: 'api' }])).reason).to.equal('no_worker');
  });

  it('is no_worker when every worker has a fault', () => {
    const faulty = { fault: { code: 'not_durable', detail: 'appendonly is no', since: EARLIER } };
    const found = reasonOf(job(), undefined, queue([vitals(faulty)]));
    expect(found).to.deep.include({ reason: 'no_worker', since: new Date(EARLIER) });
    expect(found.detail).to.include('appendonly is no');
    expect(reasonOf(job(), undefined, queue([vitals(faulty), vitals()])).reason).to.equal('waits_its_turn');
  });

  it('is not the absence of heartbeats when Redis refuses or hides them', () => {
    const memory = { usedBytes: 2, maxBytes: 2 };
    expect(reasonOf(job(), undefined, queue([], { memory })).reason).to.equal('redis_memory');
    expect(reasonOf(taken(), undefined, queue([], { memory })).reason).to.equal('redis_memory');
    const heartbeatFault = { code: 'missing_right', detail: 'no right' };
    expect(reasonOf(job(), undefined, queue([], { heartbeatFault })).reason).to.equal('waits_its_turn');
    expect(reasonOf(taken(), undefined, queue([], { heartbeatFault })).reason).to.equal('being_paid');
  });

  it('is primary_down since the last worker saw it, and only when every worker sees it', () => {
    const one = vitals({ gateways: primaryDown(EARLIER) });
    const other = vitals({ workerId: 'w2', gateways: primaryDown(LATER) });
    const found = reasonOf(job(), undefined, queue([one, other]));
    expect(found).to.deep.include({ reason: 'primary_down', since: new Date(LATER) });
    expect(found.detail).to.include('HTTP 502');
    expect(reasonOf(job(), undefined, queue([one, vitals()])).reason).to.equal('waits_its_turn');
  });

  it('is ledger_unavailable when no worker reaches the ledger', () => {
    expect(reasonOf(job(), undefined, queue([vitals({ ledgerDown: down() })])).reason).to.equal('ledger_unavailable');
  });
});

describe('the reason of a payment in flight', () => {
  it('is that it is being paid, since its run started', () => {
    expect(reasonOf(taken(), undefined, queue())).to.deep.include({
      state: 'in_flight',
      reason: 'being_paid',
      since: STARTED,
    });
  });

  it('is the circuit of the gateway it goes to, in its own worker', () => {
    const other = vitals({ workerId: 'w2', gateways: primaryDown() });
    expect(reasonOf(taken(), undefined, queue([vitals(), other])).reason).to.equal('being_paid');
    const own = queue([vitals({ gateways: primaryDown() })]);
    expect(reasonOf(taken(), undefined, own)).to.deep.include({ reason: 'primary_down', since: new Date(EARLIER) });
    expect(reasonOf(taken({ boundTo: 'fallback' }), undefined, own).reason).to.equal('being_paid');
    const fallbackDown = vitals({ gateways: { primary: { waiting: 0 }, fallback: { waiting: 1, down: down() } } });
    expect(reasonOf(taken({ boundTo: 'fallback' }), undefined, queue([fallbackDown])).reason).to.equal('fallback_down');
  });

  it('is worker_lost when no heartbeat is of its worker, whose id is a part of another id', () => {
    expect(reasonOf(taken({ lock: 'w12:0' }), undefined, queue()).reason).to.equal('worker_lost');
  });
});

describe('the reason of an unresolved payment', () => {
  const noted = { code: 'http_502', detail: 'primary gateway: unknown, HTTP 502', since: STARTED };

  it('is what was noted, with a code of the closed list', () => {
    const found = reasonOf(job({ attempts: 1, notClean: 1, noted }), undefined, queue());
    expect(found).to.deep.equal({
      state: 'unresolved',
      boundTo: 'primary',
      reason: 'gateway_response',
      detail: noted.detail,
      since: STARTED,
    });
    for (const [code, reason] of [
      ['ECONNRESET', 'no_response'],
      ['pool_timeout', 'pool_timeout'],
      ['ledger_unavailable', 'ledger_unavailable'],
    ]) {
      const { reason: read } = reasonOf(job({ notClean: 1, noted: { ...noted, code: code! } }), undefined, queue());
      expect(read, code).to.equal(reason);
    }
  });

  it('is what was noted, in flight, too', () => {
    expect(reasonOf(taken({ noted }), undefined, queue())).to.include({ state: 'unresolved', boundTo: 'primary' });
  });

  it('is worker_lost when a run ended without a word', () => {
    const found = reasonOf(job({ attempts: 1, notClean: 1, startedAt: STARTED }), undefined, queue());
    expect(found).to.deep.include({ state: 'unresolved', reason: 'worker_lost', since: STARTED });
  });

  it('is its dead letter, which ties it to its gateway', () => {
    const found = reasonOf(job(), row({ state: 'queued_again' }), queue());
    expect(found).to.deep.include({ state: 'unresolved', reason: 'rejected', boundTo: 'fallback', since: STARTED });
    expect(reasonOf(job(), row({ gateway: undefined }), queue()).state).to.equal('queued');
    expect(reasonOf(job(), row({ state: 'discarded' }), queue()).state).to.equal('queued');
  });
});

describe('the reason of a payment that is retried', () => {
  it('is its last failure', () => {
    const failure = 'http_429: primary gateway: refused, HTTP 429: slow down: now';
    expect(reasonOf(job({ attempts: 1, failure, startedAt: STARTED }), undefined, queue())).to.deep.equal({
      state: 'retrying',
      boundTo: undefined,
      reason: 'gateway_response',
      detail: 'primary gateway: refused, HTTP 429: slow down: now',
      since: STARTED,
    });
  });

  it('is the present in flight', () => {
    expect(reasonOf(taken({ failure: 'http_429: x' }), undefined, queue())).to.include({
      state: 'in_flight',
      reason: 'being_paid',
    });
  });
});
