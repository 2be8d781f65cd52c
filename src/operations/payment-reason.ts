import type { DeadLetterRow } from '../ledger/find-payment.ts';
import type { GatewayName } from '../payment.ts';
import type { QueuedJob } from '../queue/find-payment.ts';
import type { QueueState } from '../queue/queue-state.ts';
import type { Since, WorkerVitals } from '../telemetry/heartbeat.ts';

/** Why a payment is not paid. The list is closed; docs/api.md describes each. */
export const REASON_CODES = [
  // A payment that waits in the queue.
  'waits_its_turn',
  'queue_paused',
  'redis_memory',
  'no_worker',
  // A payment that a worker has taken.
  'being_paid',
  'worker_lost',
  // Both.
  'gateway_stopped',
  'primary_down',
  'fallback_down',
  'ledger_unavailable',
  // How its last run ended.
  'gateway_response',
  'no_response',
  'pool_timeout',
  'not_accepting',
  'not_confirmed',
  'queue_unavailable',
  'shutting_down',
  // A dead letter.
  'invalid_payment',
  'rejected',
  'payload_missing',
] as const;

export type ReasonCode = (typeof REASON_CODES)[number];

export interface Reason {
  readonly reason: ReasonCode;
  /** A sentence for people. It may quote what a gateway has responded. */
  readonly detail: string;
  /** Since when the reason holds. */
  readonly since: Date;
}

/** Where a payment is: the first of them that holds. */
export const PAYMENT_STATES = [
  'paid',
  // While its job is in the queue.
  'unresolved',
  'in_flight',
  'retrying',
  'queued',
  // Without such a job.
  'dead_letter',
  'discarded',
] as const;

export type UnpaidState = Exclude<(typeof PAYMENT_STATES)[number], 'paid'>;

export type QueuedReason = Reason & {
  readonly state: Exclude<UnpaidState, 'dead_letter' | 'discarded'>;
  /** The only gateway that may get the payment. */
  readonly boundTo: GatewayName | undefined;
};

/**
 * The state of a payment that has a job, and why it is not paid. It is unresolved by the rules of the worker (payment-run.ts):
 * a run did not end clean, a doubt or another note says so, it is bound, or a dead letter of its id that is not closed ties it.
 */
export function reasonOf(job: QueuedJob, deadLetter: DeadLetterRow | undefined, queue: QueueState): QueuedReason {
  const tie = deadLetter?.state !== 'discarded' && deadLetter?.gateway !== undefined ? deadLetter : undefined;
  const mayBeAtPrimary = job.notClean > 0 || job.doubts > 0 || job.noted !== undefined;
  const boundTo = job.boundTo ?? tie?.gateway ?? (mayBeAtPrimary ? 'primary' : undefined);
  const failure = job.failure === undefined ? undefined : ofFailure(job.failure, job);
  const isInFlight = job.lock !== undefined;
  const now = isInFlight ? inFlight(job, boundTo ?? 'primary', queue) : (failure ?? inQueue(job, queue));
  if (boundTo === undefined)
    return { state: isInFlight ? 'in_flight' : failure ? 'retrying' : 'queued', boundTo, ...now };
  const why = (job.noted && ofNote(job.noted)) ?? (job.notClean > 0 ? endedWithoutAWord(job) : undefined);
  return { state: 'unresolved', boundTo, ...(why ?? (tie ? ofDeadLetter(tie) : now)) };
}

/** Why a dead letter will not be paid. */
export function ofDeadLetter({ code, reason, diedAt }: Pick<DeadLetterRow, 'code' | 'reason' | 'diedAt'>): Reason {
  return { reason: code, detail: reason, since: diedAt };
}

function inFlight({ lock, startedAt, acceptedAt }: QueuedJob, gateway: GatewayName, queue: QueueState): Reason {
  const since = startedAt ?? acceptedAt;
  const worker = workersOf(queue).find(({ workerId }) => lock!.startsWith(`${workerId}:`));
  if (worker === undefined && isMemoryFull(queue)) return memoryFull(since);
  if (worker === undefined && queue.heartbeatFault === undefined) {
    const detail = 'the worker that took it gives no sign of life; another one takes it over within seconds';
    return { reason: 'worker_lost', detail, since };
  }
  const down = worker?.gateways[gateway].down;
  if (down) return ofDown(gateway, down);
  if (worker?.ledgerDown) return ofLedger(worker.ledgerDown);
  return { reason: 'being_paid', detail: 'a worker has taken it', since };
}

function inQueue({ acceptedAt }: QueuedJob, queue: QueueState): Reason {
  const workers = workersOf(queue);
  const since = (problem: string) => firstSeen(queue, problem) ?? acceptedAt;
  if (queue.isPaused) {
    const { who = 'an operator', reason, at } = queue.pausedBy ?? {};
    const detail = `${who} has paused the queue${reason === undefined ? '' : `: ${reason}`}`;
    return { reason: 'queue_paused', detail, since: at === undefined ? since('queue_paused') : new Date(at) };
  }
  if (isMemoryFull(queue)) return memoryFull(since('redis_memory'));
  const waits: Reason = { reason: 'waits_its_turn', detail: 'a worker takes it in its turn', since: acceptedAt };
  if (workers.length === 0 && queue.heartbeatFault !== undefined) return waits;
  if (workers.length === 0) return { reason: 'no_worker', detail: 'no worker runs', since: since('no_worker') };
  const fault = ofAll(workers, (worker) => worker.fault);
  if (fault) {
    const detail = `no worker takes payments: ${fault.detail}`;
    return { reason: 'no_worker', detail, since: new Date(fault.since) };
  }
  const down = ofAll(workers, ({ gateways }) => gateways.primary.down);
  if (down) return ofDown('primary', down);
  const ledgerDown = ofAll(workers, (worker) => worker.ledgerDown);
  return ledgerDown ? ofLedger(ledgerDown) : waits;
}

function ofDown(gateway: GatewayName, { code, detail, since }: Since): Reason {
  if (isSteered(code)) {
    return { reason: 'gateway_stopped', detail: `the ${gateway} gateway is ${detail}`, since: new Date(since) };
  }
  return { reason: `${gateway}_down`, detail: `the ${gateway} gateway is down: ${detail}`, since: new Date(since) };
}

function ofLedger({ detail, since }: Since): Reason {
  return { reason: 'ledger_unavailable', detail: `the ledger does not respond: ${detail}`, since: new Date(since) };
}

function ofNote({ code, detail, since }: NonNullable<QueuedJob['noted']>): Reason {
  return { reason: toReasonCode(code), detail, since };
}

const FAILURE = /^(\w+): (.+)$/s;

function ofFailure(failure: string, { startedAt, acceptedAt }: QueuedJob): Reason {
  const [, code = '', detail = failure] = FAILURE.exec(failure) ?? [];
  return { reason: toReasonCode(code), detail, since: startedAt ?? acceptedAt };
}

function endedWithoutAWord({ startedAt, acceptedAt }: QueuedJob): Reason {
  const detail = 'a run ended without a result, so an attempt may have been paid; the next run asks the same gateway';
  return { reason: 'worker_lost', detail, since: startedAt ?? acceptedAt };
}

function memoryFull(since: Date): Reason {
  return { reason: 'redis_memory', detail: 'Redis is out of memory (maxmemory)', since };
}

/** The codes of gateways are open: HTTP statuses, and the system's names of what can happen to a connection. */
function toReasonCode(code: string): ReasonCode {
  const known = REASON_CODES.find((each) => each === code);
  if (known) return known;
  if (isSteered(code)) return 'gateway_stopped';
  return code.startsWith('http_') ? 'gateway_response' : 'no_response';
}

/** Of an operator's decision. */
function isSteered(code: string): boolean {
  return code === 'stopped' || code === 'draining';
}

function workersOf({ heartbeats }: QueueState): readonly WorkerVitals[] {
  return heartbeats.flatMap(({ worker }) => worker ?? []);
}

/** What holds for every worker, since it holds for the last of them. */
function ofAll(workers: readonly WorkerVitals[], read: (worker: WorkerVitals) => Since | undefined): Since | undefined {
  const all = workers.flatMap((worker) => read(worker) ?? []);
  if (all.length < workers.length) return undefined;
  return all.reduce((latest, each) => (each.since > latest.since ? each : latest));
}

/** When an API node first saw this problem. */
function firstSeen({ heartbeats }: QueueState, problem: string): Date | undefined {
  const times = heartbeats.flatMap(({ problems }) => problems?.[problem] ?? []).sort();
  return times[0] === undefined ? undefined : new Date(times[0]);
}

/** Redis then refuses the heartbeats, too, so their absence says nothing. */
function isMemoryFull({ memory }: QueueState): boolean {
  return memory !== undefined && memory.usedBytes >= memory.maxBytes;
}
