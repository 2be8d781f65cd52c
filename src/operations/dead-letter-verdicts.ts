import type { DeadLetterFilter } from '../ledger/dead-letter-filter.ts';
import type { DeadLetterCode } from '../ledger/dead-letters.ts';
import type { OpenDeadLetters, WalkedDeadLetter } from '../ledger/open-dead-letters.ts';
import { parsePayment } from '../payment.ts';
import type { QueuedCheck } from '../queue/queued-check.ts';

export const DEAD_LETTER_VERBS = ['retry', 'discard'] as const;

export type DeadLetterVerb = (typeof DEAD_LETTER_VERBS)[number];

/** Why an action leaves a dead letter as it is, as a sentence's end for people. */
export const SKIP_REASONS = {
  paid: 'the ledger has a payment of this id',
  in_queue: 'the id is in the queue already',
  payload_missing: 'the payload was not kept: the payment has to be posted again',
  payload_cut: 'only a part of the payload was kept: the payment has to be posted again',
  still_invalid: 'the payload is invalid, so it would die again',
  not_open: 'it was paid, retried, discarded or died again meanwhile',
} as const;

export type SkipReason = keyof typeof SKIP_REASONS;

export type Skipped = Readonly<Partial<Record<SkipReason, number>>>;

/**
 * What an action does with each of these letters now. A letter whose id is in the queue is not discarded, because its row may
 * tie the queued payment to a gateway.
 * @throws LedgerUnavailableError, QueueUnavailableError
 */
export async function judge(
  verb: DeadLetterVerb,
  letters: readonly WalkedDeadLetter[],
  { openDeadLetters, areQueued }: { openDeadLetters: Pick<OpenDeadLetters, 'paidOf'>; areQueued: QueuedCheck },
): Promise<{ readonly eligible: readonly WalkedDeadLetter[]; readonly skipped: Skipped }> {
  const paid = await openDeadLetters.paidOf(letters.flatMap(({ correlationId }) => correlationId ?? []));
  const areInQueue = await areQueued(letters.map(({ jobId }) => jobId));
  const eligible: WalkedDeadLetter[] = [];
  let skipped: Skipped = {};
  for (const [index, letter] of letters.entries()) {
    const isPaid = letter.correlationId !== undefined && paid.has(letter.correlationId);
    const why = isPaid ? 'paid' : areInQueue[index] ? 'in_queue' : verb === 'retry' ? faultOf(letter) : undefined;
    if (why === undefined) eligible.push(letter);
    else skipped = plus(skipped, { [why]: 1 });
  }
  return { eligible, skipped };
}

/** Why it cannot be retried, or would die again. */
function faultOf({ payload, isCut }: WalkedDeadLetter): SkipReason | undefined {
  if (payload === undefined) return 'payload_missing';
  if (isCut) return 'payload_cut';
  return isValid(payload) ? undefined : 'still_invalid';
}

function isValid(payload: string): boolean {
  try {
    return 'payment' in parsePayment(JSON.parse(payload));
  } catch {
    // Our API stores nothing but JSON.
    return false;
  }
}

export function plus(a: Skipped, b: Skipped): Skipped {
  const sum: Partial<Record<SkipReason, number>> = { ...a };
  for (const [why, count] of Object.entries(b) as [SkipReason, number][]) sum[why] = (sum[why] ?? 0) + count;
  return sum;
}

export function countOf(skipped: Skipped): number {
  return Object.values(skipped).reduce((sum, count) => sum + count, 0);
}

/** What an action would do now. */
export interface DryRun {
  /** Letters that fit the filter, by code. */
  readonly matching: Readonly<Record<DeadLetterCode, number>>;
  /** False: more fit than were counted. */
  readonly isComplete: boolean;
  /** Letters that were looked at, in the order in which the action takes them. */
  readonly examined: number;
  readonly eligible: number;
  readonly skipped: Skipped;
  /** The same for people. */
  readonly summary: string;
}

/** Letters that a dry run looks at, and for how long. With the largest payloads it reads some 100 MB in this time. */
const MAX_EXAMINED = 10_000;
const EXAMINE_MS = 3_000;

const PIECE = 100;

/** @throws LedgerUnavailableError, QueueUnavailableError */
export async function dryRun(
  verb: DeadLetterVerb,
  filter: DeadLetterFilter,
  deps: { openDeadLetters: Pick<OpenDeadLetters, 'paidOf' | 'walk' | 'count'>; areQueued: QueuedCheck },
): Promise<DryRun> {
  const deadline = performance.now() + EXAMINE_MS;
  let [examined, eligible, afterId, isEnd] = [0, 0, '0', false];
  let skipped: Skipped = {};
  while (!isEnd && examined < MAX_EXAMINED && performance.now() < deadline) {
    const piece = await deps.openDeadLetters.walk(filter, { afterId, limit: PIECE });
    const judged = await judge(verb, piece.letters, deps);
    examined += piece.letters.length;
    eligible += judged.eligible.length;
    skipped = plus(skipped, judged.skipped);
    ({ reachedId: afterId, isEnd } = piece);
  }
  const { ids } = filter;
  if (ids !== undefined && isEnd && ids.length > examined) skipped = plus(skipped, { not_open: ids.length - examined });
  const { byCode, isComplete } = await deps.openDeadLetters.count(filter);
  const left = isEnd ? 0 : Object.values(byCode).reduce((sum, count) => sum + count, 0) - examined;
  const summary = summaryOf({ verb, eligible, skipped, left });
  return { matching: byCode, isComplete, examined, eligible, skipped, summary };
}

const PARTICIPLES = { retry: 'retried', discard: 'discarded' } as const;

function summaryOf({
  verb,
  eligible,
  skipped,
  left,
}: {
  verb: DeadLetterVerb;
  eligible: number;
  skipped: Skipped;
  left: number;
}): string {
  const not = countOf(skipped);
  const why = (Object.entries(skipped) as [SkipReason, number][])
    .map(([reason, count]) => `${shown(count)}: ${SKIP_REASONS[reason]}`)
    .join('; ');
  const rest = left > 0 ? ` At least ${shown(left)} more fit and were not examined.` : '';
  return `${shown(eligible)} would be ${PARTICIPLES[verb]}, ${shown(not)} not${not > 0 ? `, because ${why}` : ''}.${rest}`;
}

export function shown(count: number): string {
  return count.toLocaleString('en-US');
}
