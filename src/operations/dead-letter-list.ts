import type { DeadLetterFilter, ListPlace } from '../ledger/dead-letter-filter.ts';
import type { DeadLetterCode } from '../ledger/dead-letters.ts';
import type { OpenDeadLetter, OpenDeadLetters } from '../ledger/open-dead-letters.ts';

/** An open dead letter as operators see it. */
export interface ShownDeadLetter {
  readonly id: string;
  readonly jobId: string;
  readonly correlationId?: string;
  readonly amount?: string;
  readonly reason: DeadLetterCode;
  readonly detail: string;
  readonly gateway?: string;
  readonly attempts: number;
  readonly acceptedAt: string;
  readonly diedAt: string;
  readonly payload?: string;
  readonly payloadBytes?: number;
}

export interface DeadLetterPage {
  /** Letters that fit the filter, by reason. */
  readonly matching: Readonly<Record<DeadLetterCode, number>>;
  /** False: more fit than were counted. */
  readonly isComplete: boolean;
  readonly deadLetters: readonly ShownDeadLetter[];
  /** `after` of the next page. Undefined: this is the last. */
  readonly next?: string;
}

export interface ListQuery {
  readonly filter: DeadLetterFilter;
  readonly after: ListPlace | undefined;
  readonly limit: number;
}

/** @throws LedgerUnavailableError */
export async function listDeadLetters(
  { filter, after, limit }: ListQuery,
  openDeadLetters: Pick<OpenDeadLetters, 'list' | 'count'>,
): Promise<DeadLetterPage> {
  const letters = await openDeadLetters.list(filter, { after, limit });
  const last = letters.at(-1);
  const { byCode, isComplete } = await openDeadLetters.count(filter);
  return {
    matching: byCode,
    isComplete,
    deadLetters: letters.map(shownDeadLetter),
    ...(letters.length === limit && last && { next: placeText(last) }),
  };
}

export function shownDeadLetter(letter: OpenDeadLetter): ShownDeadLetter {
  const { id, jobId, correlationId, amountText, code, reason, gateway, attempts, payloadStart, payloadBytes } = letter;
  return {
    id,
    jobId,
    ...(correlationId !== undefined && { correlationId }),
    ...(amountText !== undefined && { amount: amountText }),
    reason: code,
    detail: reason,
    ...(gateway && { gateway }),
    attempts,
    acceptedAt: letter.acceptedAt.toISOString(),
    diedAt: letter.diedAt.toISOString(),
    ...(payloadStart !== undefined && { payload: payloadStart }),
    ...(payloadBytes !== undefined && { payloadBytes }),
  };
}

/** A place in the list as a client sends it back. */
function placeText({ diedAt, id }: ListPlace): string {
  return `${diedAt.getTime()}-${id}`;
}

/** Undefined for anything that {@link placeText} does not make. */
export function parsePlace(text: string): ListPlace | undefined {
  const match = /^(\d{1,15})-(\d{1,18})$/.exec(text);
  if (!match) return undefined;
  const diedAt = new Date(Number(match[1]));
  // PostgreSQL writes the years above 9999 in another way.
  return diedAt.getTime() < Date.parse('9999-12-31T23:59:59.999Z') ? { diedAt, id: match[2]! } : undefined;
}
