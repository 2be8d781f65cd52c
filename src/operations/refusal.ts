import { ConflictError } from '../errors.ts';
import type { PaidPayment } from '../ledger/ledger.ts';
import type { WaitingJobResult } from '../queue/waiting-jobs.ts';

/** Why a payment was not settled by hand. The list is closed; docs/errors.md describes each. */
export const REFUSALS = [
  'paid',
  'differs',
  'amount_differs',
  'tied_elsewhere',
  'not_unresolved',
  'dead_letter',
  'not_drained',
  'too_recent',
  'in_flight',
  'changed',
] as const;

/** What the provider of a gateway says that it has made. */
export type Statement = Pick<PaidPayment, 'gateway' | 'amountCents' | 'requestedAt'>;

export interface Refusal {
  readonly reason: (typeof REFUSALS)[number];
  /** A sentence for people. */
  readonly message: string;
  /** The ledger's row that contradicts the statement. The amount is in units. */
  readonly recorded?: { readonly gateway: string; readonly amount: number; readonly requestedAt: Date };
}

export const IN_FLIGHT = 'a worker has it in flight: try again in a few seconds';
export const NO_NOTE =
  'its last run has left no note of its last attempt: once a worker has taken it again there is one';
const CHANGED = 'it has changed meanwhile: look at it again';

/** A condition of an act does not hold, and nothing was changed. */
export class Refused extends Error {
  readonly refusal: Refusal;
  constructor(reason: Refusal['reason'], message: string, recorded?: Statement) {
    super(message);
    const { gateway, amountCents, requestedAt } = recorded ?? {};
    this.refusal = {
      reason,
      message,
      ...(recorded && { recorded: { gateway: gateway!, amount: amountCents! / 100, requestedAt: requestedAt! } }),
    };
  }

  toConflict(subject: string): ConflictError {
    return new ConflictError(`${subject}: ${this.message}`, { cause: this, details: { ...this.refusal } });
  }
}

/** @throws Refused */
export function done(result: WaitingJobResult): void {
  if (result !== 'done') throw new Refused(result, result === 'in_flight' ? IN_FLIGHT : CHANGED);
}
