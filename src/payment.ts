import type { ParameterFault } from './errors.ts';

/** A payment as the worker forwards it. Money is whole cents; no float is ever calculated with. */
export interface Payment {
  /** UUID in lower case: the idempotency key at the queue, the gateways and the ledger. */
  readonly correlationId: string;
  /** 1 to {@link MAX_AMOUNT_CENTS}. */
  readonly amountCents: number;
}

/** The two gateways, by the names the summary uses. */
export type GatewayName = 'default' | 'fallback';

/**
 * Above this a JSON number no longer holds every cent: a double has 53 bits, and 2^53 cents need them all.
 * One factor of two is kept free for rounding.
 */
export const MAX_AMOUNT_CENTS = 2 ** 52;

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** The normal form of a UUID, or undefined for anything else. */
export function parseCorrelationId(value: unknown): string | undefined {
  return typeof value === 'string' && UUID.test(value) ? value.toLowerCase() : undefined;
}

/** Whole cents of an amount in units, or undefined when it is not a positive number of at most 2 decimals. */
export function parseAmountCents(amount: unknown): number | undefined {
  if (typeof amount !== 'number') return undefined;
  const cents = Math.round(amount * 100);
  // A number has at most 2 decimals exactly when it is the double nearest to its own whole cents.
  return cents >= 1 && cents <= MAX_AMOUNT_CENTS && cents / 100 === amount ? cents : undefined;
}

/** The id a payload asks for, without judging the rest of it; undefined when it has no usable one. */
export function correlationIdOf(payload: unknown): string | undefined {
  return isRecord(payload) ? parseCorrelationId(payload['correlationId']) : undefined;
}

/** Judges a payload. Names every fault, not only the first. */
export function parsePayment(payload: unknown): { payment: Payment } | { faults: readonly ParameterFault[] } {
  if (!isRecord(payload)) return { faults: [{ param: 'body', message: 'must be a JSON object' }] };
  const correlationId = parseCorrelationId(payload['correlationId']);
  const amountCents = parseAmountCents(payload['amount']);
  if (correlationId !== undefined && amountCents !== undefined) return { payment: { correlationId, amountCents } };
  const faults: ParameterFault[] = [];
  if (correlationId === undefined) faults.push({ param: 'correlationId', message: 'must be a UUID' });
  if (amountCents === undefined) {
    faults.push({
      param: 'amount',
      message: `must be a positive number of at most 2 decimals, up to ${MAX_AMOUNT_CENTS / 100}`,
    });
  }
  return { faults };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
