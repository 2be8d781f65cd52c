import { InvalidRequestError, NotFoundError } from '../errors.ts';
import type { LedgerByHand } from '../ledger/by-hand.ts';
import type { DeadLetters } from '../ledger/dead-letters.ts';
import { amountTextOf, type GatewayName, parseCorrelationId } from '../payment.ts';
import type { QueuedJob } from '../queue/find-payment.ts';
import type { QueueWatch } from '../queue/queue-state.ts';
import type { ReadJob, WaitingJobs } from '../queue/waiting-jobs.ts';
import { whyNotDrained } from './gateway-drained.ts';
import { done, IN_FLIGHT, Refused, type Statement } from './refusal.ts';
import type { Act, Outcome, Trail } from './trail.ts';
import {
  ageOfLastAttempt,
  describeBefore,
  type ReadDeps,
  readPayment,
  type UnresolvedPayment,
} from './unresolved-payment.ts';

/** Who acts, and why, in the operator's words. */
export interface By {
  readonly who: string;
  readonly reason?: string | undefined;
}

/** What came of one payment, or would come of it. */
export interface Settled {
  readonly correlationId: string;
  /** The gateway that it was recorded for, or from which it was released or at which it was rejected. */
  readonly gateway: GatewayName;
  readonly result: 'recorded' | 'released' | 'rejected';
}

/**
 * Settles payments that stay unresolved for good, as an operator says who has asked the provider of the gateway. Two of the acts
 * end what the service knows of an attempt, so guarantee 2 rests on the operator from then on. `npm run reconcile` names a
 * released payment that turns up after all.
 *
 * - `record`: it was made. The ledger gets the row, and a job that is still in the queue finds itself recorded at its next run.
 *   A waiting job is first bound to that gateway, so that no run sends it to the other one in between.
 * - `release`: it was not made. It is free for both gateways again.
 * - `reject`: it never will be. It becomes a dead letter, which ties its id to the gateway like every other rejected one.
 *
 * Release and reject need proof that nothing is on its way to the gateway: it is stopped and drained, the last attempt is older
 * than RELEASE_AFTER_MS, and one script finds the job as it was read: waiting, and no run has started since.
 *
 * Crashes and races:
 * - Trail.run commits its row before anything changes. So every change, also one that a crash cut short, has a row.
 * - after the binding, before the ledger's row: the payment stays at the gateway that has made it, whose response records it.
 * - a release frees the job inside the transaction that unties its dead letters. Before the COMMIT, the id is still tied, and
 *   the job is not due; after a failed COMMIT it stays at its gateway, and a second release does the rest.
 * - after a rejected payment's row, before the end of its job: the row is open and ties the id; the next run stays at that gateway,
 *   and pays, or another reject ends it.
 * - a worker, a promotion or another operator comes first: the script changes nothing, or finds that nothing is left to do.
 */
export interface SettleByHand {
  /** @throws ConflictError when it is refused, NotFoundError when nobody posted it, and what {@link Trail.run} throws */
  record(id: string, statement: Statement, by: By): Promise<Settled>;
  /** @throws as `record` does */
  release(id: string, by: By): Promise<Settled>;
  /** @throws as `record` does */
  reject(id: string, by: By & { readonly reason: string }): Promise<Settled>;
  /** What release or reject would do now. Changes nothing, and leaves no row. @throws as `record` does */
  preview(result: 'released' | 'rejected', id: string): Promise<Settled>;
  /** @throws ConflictError when an attempt at this gateway may be under way */
  checkDrained(gateway: GatewayName): Promise<void>;
}

export interface SettleDeps extends ReadDeps {
  readonly byHand: LedgerByHand;
  readonly deadLetters: Pick<DeadLetters, 'bury'>;
  readonly waitingJobs: WaitingJobs;
  readonly queueWatch: QueueWatch;
  readonly trail: Pick<Trail, 'run'>;
  /** RELEASE_AFTER_MS */
  readonly releaseAfterMs: number;
}

/** How long a released job waits for the COMMIT that unties its id. Longer than a COMMIT takes. */
const COMMIT_MS = 2_000;

export function createSettleByHand(deps: SettleDeps): SettleByHand {
  const { waitingJobs, byHand, deadLetters, trail } = deps;

  /** @returns the time, in ms of Redis' clock. @throws Refused */
  async function expectDrained(gateway: GatewayName): Promise<number> {
    const queue = await deps.queueWatch.read();
    const why = whyNotDrained(gateway, queue.steering[gateway], queue);
    if (why !== undefined) throw new Refused('not_drained', why);
    return queue.nowMs;
  }

  /** What a release or a reject may act on. @throws Refused, NotFoundError */
  async function examine(correlationId: string): Promise<Examined> {
    const payment = await readKnown(correlationId, deps);
    const { boundTo, inLedger } = payment;
    if (inLedger.recorded) throw new Refused('paid', `it is recorded for the ${inLedger.recorded.gateway} gateway`);
    if (boundTo === undefined) throw new Refused('not_unresolved', 'both gateways may get it already');
    // After the payment was read: a run that starts since changes the job, and the script finds that.
    const nowMs = await expectDrained(boundTo);
    const ageMs = ageOfLastAttempt(payment, nowMs);
    if (!(ageMs >= deps.releaseAfterMs)) {
      const message = `its last attempt may be only ${Math.round(ageMs / 1_000)} s old; RELEASE_AFTER_MS is ${deps.releaseAfterMs}`;
      throw new Refused('too_recent', message);
    }
    return { ...payment, boundTo };
  }

  async function release(payment: Examined, who: string): Promise<void> {
    const { correlationId, boundTo: gateway, ties, job } = payment;
    const isTied = ties.some((tie) => tie.gateway === gateway);
    const free = async () => {
      if (job === undefined) return;
      const delayMs = isTied ? COMMIT_MS : 0;
      done(await waitingJobs.release(readJobOf(correlationId, job), { gateway, by: who, delayMs }));
    };
    await (isTied ? byHand.untie(correlationId, gateway, free) : free());
  }

  async function reject({ correlationId, boundTo, job }: Rejectable, reason: string): Promise<void> {
    await deadLetters.bury([
      {
        jobId: correlationId,
        correlationId,
        amountText: amountTextOf(parsed(job.data)),
        payload: job.data,
        code: 'rejected',
        reason,
        gateway: boundTo,
        attempts: job.attempts,
        acceptedAt: job.acceptedAt,
      },
    ]);
    done(await waitingJobs.end(readJobOf(correlationId, job)));
  }

  /** @throws Refused */
  async function examineToReject(correlationId: string): Promise<Rejectable> {
    const { job, ...payment } = await examine(correlationId);
    if (job?.kind !== 'queued') throw new Refused('dead_letter', 'it is a dead letter already');
    return { ...payment, job };
  }

  /** From here on no run sends the payment to another gateway than the one that has made it. @throws Refused */
  async function bindToRecord(payment: UnresolvedPayment, { gateway, amountCents }: Statement): Promise<void> {
    const { correlationId, job, boundTo } = payment;
    if (payment.amountCents !== undefined && payment.amountCents !== amountCents) {
      throw new Refused('amount_differs', `it was posted with the amount ${payment.amountCents / 100}`);
    }
    if (boundTo !== undefined && boundTo !== gateway) {
      const message = `an attempt at the ${boundTo} gateway may have been paid, too: release it there first`;
      throw new Refused('tied_elsewhere', message);
    }
    // In flight at the same gateway is safe: it responds that it has the payment, which is in the ledger by then.
    if (job?.kind !== 'queued' || boundTo === gateway) return;
    if (job.lock !== undefined) throw new Refused('in_flight', IN_FLIGHT);
    done(await waitingJobs.tie(readJobOf(correlationId, job), gateway));
  }

  /** Runs an act with its row in the trail. @throws ConflictError for what `perform` refuses */
  async function act(
    name: 'record' | 'release' | 'reject',
    id: string,
    { who, reason, statement }: By & { statement?: Statement },
    perform: (correlationId: string) => Promise<Settled>,
  ): Promise<Settled> {
    const correlationId = uuidOf(id);
    const payment = await readKnown(correlationId, deps);
    // In the target, because that part of the row is there before the change.
    const target = { correlationId, gateway: payment.boundTo, ...statement, before: describeBefore(payment) };
    const row: Act = { who, action: `payment.${name}`, target, reason };
    const result = await trail.run<Settled | Refused>(row, async (): Promise<Outcome<Settled | Refused>> => {
      try {
        const settled = await perform(correlationId);
        return { result: settled, state: 'done', outcome: { gateway: settled.gateway } };
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        return { result: error, state: 'refused', outcome: { ...error.refusal } };
      }
    });
    if (result instanceof Refused) throw result.toConflict(correlationId);
    return result;
  }

  return {
    record: (id, statement, by) =>
      act('record', id, { ...by, statement }, async (correlationId) => {
        const payment = await readKnown(correlationId, deps);
        const { recorded } = payment.inLedger;
        if (recorded === undefined) await bindToRecord(payment, statement);
        const row = recorded ?? (await byHand.record({ correlationId, ...statement }, by.who));
        if (!isSame(row, statement)) throw new Refused('differs', 'the ledger has another row of it', row);
        return { correlationId, gateway: statement.gateway, result: 'recorded' };
      }),
    release: (id, by) =>
      act('release', id, by, async (correlationId) => {
        const payment = await examine(correlationId);
        await release(payment, by.who);
        return { correlationId, gateway: payment.boundTo, result: 'released' };
      }),
    reject: (id, by) =>
      act('reject', id, by, async (correlationId) => {
        const payment = await examineToReject(correlationId);
        await reject(payment, by.reason);
        return { correlationId, gateway: payment.boundTo, result: 'rejected' };
      }),
    async preview(result, id) {
      const correlationId = uuidOf(id);
      try {
        const { boundTo: gateway } = await (result === 'released' ? examine : examineToReject)(correlationId);
        return { correlationId, gateway, result };
      } catch (error) {
        throw error instanceof Refused ? error.toConflict(correlationId) : error;
      }
    },
    async checkDrained(gateway) {
      try {
        await expectDrained(gateway);
      } catch (error) {
        throw error instanceof Refused ? error.toConflict(gateway) : error;
      }
    },
  };
}

type Examined = UnresolvedPayment & { readonly boundTo: GatewayName };
type Rejectable = Omit<Examined, 'job'> & { readonly job: QueuedJob };

/** @throws InvalidRequestError */
function uuidOf(id: string): string {
  const correlationId = parseCorrelationId(id);
  if (correlationId !== undefined) return correlationId;
  throw new InvalidRequestError([{ param: 'correlationId', message: 'must be a UUID' }]);
}

/** @throws NotFoundError when neither queue nor ledger has it */
async function readKnown(correlationId: string, deps: ReadDeps): Promise<UnresolvedPayment> {
  const payment = await readPayment(correlationId, deps);
  const { job, inLedger, ties } = payment;
  if (job || inLedger.recorded || inLedger.deadLetter || ties.length > 0) return payment;
  throw new NotFoundError(`no payment has the id ${correlationId}`);
}

function readJobOf(id: string, job: NonNullable<UnresolvedPayment['job']>): ReadJob {
  return { id, attempts: job.kind === 'failed' ? job.job.attempts : job.attempts };
}

function isSame(a: Statement, b: Statement): boolean {
  return (
    a.gateway === b.gateway && a.amountCents === b.amountCents && a.requestedAt.getTime() === b.requestedAt.getTime()
  );
}

function parsed(data: string | undefined): unknown {
  try {
    return data === undefined ? undefined : JSON.parse(data);
  } catch {
    return undefined;
  }
}
