import { ConflictError, NotFoundError } from '../errors.ts';
import type { GatewayName } from '../payment.ts';
import type { WaitingJobs } from '../queue/waiting-jobs.ts';
import type { Refusal } from './refusal.ts';
import type { By, SettleByHand, Settled } from './settle-by-hand.ts';
import type { Trail } from './trail.ts';

/** Which of the unresolved payments, the oldest first. */
export interface UnresolvedFilter {
  readonly gateway: GatewayName;
  /** Unresolved since this time or earlier. Undefined: all. */
  readonly olderThan: Date | undefined;
  /** How many of them to pass over: {@link SettledPage.next} of the page before. */
  readonly offset: number;
  /** At most {@link MAX_PAGE}. */
  readonly limit: number;
}

export interface SettledPage {
  readonly payments: readonly SettledOrNot[];
  /** Where the next page starts; undefined when this was the last. */
  readonly next: number | undefined;
}

/** `message` says why a payment was refused. */
export type SettledOrNot =
  | Settled
  | {
      readonly correlationId: string;
      readonly result: 'refused';
      readonly reason: Refusal['reason'] | 'not_found';
      readonly message: string;
    };

/** Each payment takes some ten round trips to Redis and PostgreSQL, so a page takes about a second. */
export const MAX_PAGE = 100;

/** Releases or rejects a page of unresolved payments, each as {@link SettleByHand} does, with its own row in the trail. */
export interface SettleUnresolved {
  /**
   * @throws ConflictError when an attempt at the gateway may be under way
   * @throws LedgerUnavailableError, QueueUnavailableError after which part of the page may be settled
   */
  release(filter: UnresolvedFilter, by: By): Promise<SettledPage>;
  /** @throws as `release` does */
  reject(filter: UnresolvedFilter, by: By & { readonly reason: string }): Promise<SettledPage>;
  /** What the act would do now. Changes nothing. @throws as `release` does */
  preview(result: 'released' | 'rejected', filter: UnresolvedFilter): Promise<SettledPage>;
}

export function createSettleUnresolved({
  settle,
  waitingJobs,
  trail,
}: {
  settle: SettleByHand;
  waitingJobs: Pick<WaitingJobs, 'unresolved'>;
  trail: Pick<Trail, 'run'>;
}): SettleUnresolved {
  async function eachOf(
    { gateway, olderThan, offset, limit }: UnresolvedFilter,
    one: (id: string) => Promise<Settled>,
  ): Promise<SettledPage & { readonly refused: number }> {
    await settle.checkDrained(gateway);
    const page = { offset, limit, notedBeforeMs: olderThan?.getTime() ?? Number.MAX_SAFE_INTEGER };
    const listed = await waitingJobs.unresolved(gateway, page);
    const payments: SettledOrNot[] = [];
    for (const { id } of listed) payments.push(await one(id).catch((error: unknown) => toRefused(id, error)));
    const refused = payments.filter(({ result }) => result === 'refused').length;
    return { payments, refused, next: listed.length < limit ? undefined : offset };
  }

  async function act(
    name: 'release' | 'reject',
    filter: UnresolvedFilter,
    { who, reason }: By,
    one: (id: string) => Promise<Settled>,
  ): Promise<SettledPage> {
    const row = { who, action: `unresolved.${name}`, target: { ...filter }, reason };
    const result = await trail.run<SettledPage | ConflictError>(row, async () => {
      try {
        const { payments, refused, next } = await eachOf(filter, one);
        const outcome = { settled: payments.length - refused, refused };
        // The settled ones have left the list.
        return { result: { payments, next: next === undefined ? undefined : next + refused }, state: 'done', outcome };
      } catch (error) {
        if (!(error instanceof ConflictError)) throw error;
        return { result: error, state: 'refused', outcome: error.details };
      }
    });
    if (result instanceof ConflictError) throw result;
    return result;
  }

  return {
    release: (filter, by) => act('release', filter, by, (id) => settle.release(id, by)),
    reject: (filter, by) => act('reject', filter, by, (id) => settle.reject(id, by)),
    async preview(result, filter) {
      const { payments, next } = await eachOf(filter, (id) => settle.preview(result, id));
      return { payments, next: next === undefined ? undefined : next + payments.length };
    },
  };
}

/** @throws the error, unless it is about this payment alone */
function toRefused(correlationId: string, error: unknown): SettledOrNot {
  if (error instanceof NotFoundError) {
    return { correlationId, result: 'refused', reason: 'not_found', message: 'it has left the queue' };
  }
  if (!(error instanceof ConflictError)) throw error;
  const { reason, message } = error.details as unknown as Refusal;
  return { correlationId, result: 'refused', reason, message };
}
