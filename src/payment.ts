import type { ParameterFault } from './errors.ts';

/** A payment as the worker forwards it. Money is whole cents; no float is ever calculated with. */
export interface Payment {
  /** UUID in lower case: the idempotency key at the queue, the gateways and the ledger. */
  readonly correlationId: string;
  /** 1 to {@link MAX_AMOUNT_CENTS}. */
  readonly amountCents: number;
}

/** The two gateways. The summary's JSON and the ledger's columns call the primary `default`. */
export type GatewayName = 'primary' | 'fallback';

/**
 * Above this a JSON number no longer holds every cent: a double has 53 bits, and 2^53 cents need them all.
 * One factor of two is kept free for rounding.
 */
export const MAX_AMOUNT_CENTS = 2 ** 52;

/**
 * How far a number may lie from whole cents, in units and as a share of it. Clients calculate with doubles: 0.1 + 0.2 is
 * 0.30000000000000004. The share is millions of times the error of one operation, so thousands of added items are still
 * understood; the fixed bound keeps half a cent of a large amount from passing for an error.
 */
const MAX_NOISE = 0.0001;
const MAX_NOISE_SHARE = 1e-9;

/** How much of a value at fault is shown: enough to recognise it, however large it is. */
const SHOWN_CHARACTERS = 40;

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** The normal form of a UUID, or undefined for anything else. */
export function parseCorrelationId(value: unknown): string | undefined {
  return typeof value === 'string' && UUID.test(value) ? value.toLowerCase() : undefined;
}

/**
 * Whole cents of an amount in units, or undefined when it is none: a positive number of at most 2 decimals, up to the
 * noise of floating-point arithmetic and to {@link MAX_AMOUNT_CENTS}.
 */
export function parseAmountCents(amount: unknown): number | undefined {
  const read = readAmount(amount);
  return 'cents' in read ? read.cents : undefined;
}

function readAmount(amount: unknown): { readonly cents: number } | { readonly fault: string } {
  if (amount === undefined) return { fault: 'is missing' };
  if (typeof amount !== 'number') return { fault: `must be a number, not ${nameOf(amount)}` };
  if (!(amount > 0)) return { fault: `must be more than 0 (got ${amount})` };
  const cents = wholeCents(amount);
  if ((cents ?? amount * 100) > MAX_AMOUNT_CENTS) {
    return { fault: `must not be above ${MAX_AMOUNT_CENTS / 100} (got ${amount})` };
  }
  return cents === undefined ? { fault: `must have at most 2 decimals (got ${amount})` } : { cents };
}

/** The whole cents that a positive number stands for, or undefined when it lies between two. */
function wholeCents(amount: number): number | undefined {
  const nearest = Math.round(amount * 100);
  const tolerance = Math.min(MAX_NOISE_SHARE * amount, MAX_NOISE);
  // Near the bound multiplying by 100 rounds by more than half a cent, so its neighbours are tried, too. There doubles lie
  // further apart than the tolerance: only the one nearest to a cent, which is what dividing gives, stands for it.
  return [nearest, nearest - 1, nearest + 1].find(
    (cents) => cents >= 1 && (cents / 100 === amount || Math.abs(amount - cents / 100) <= tolerance),
  );
}

/** A value that is no number, for a reader. Strings are quoted and escaped, so that they cannot pass for something else. */
function nameOf(value: unknown): string {
  if (typeof value === 'string') return `the string ${quoted(value)}`;
  if (Array.isArray(value)) return 'an array';
  return typeof value === 'object' && value !== null ? 'an object' : String(value);
}

function quoted(text: string): string {
  if (text.length <= SHOWN_CHARACTERS) return JSON.stringify(text);
  // Half of a surrogate pair at the end is left out.
  const start = text.slice(0, SHOWN_CHARACTERS).replace(/[\uD800-\uDBFF]$/, '');
  return `${JSON.stringify(start)}… (${text.length} characters)`;
}

/** The id a payload asks for, without judging the rest of it; undefined when it has no usable one. */
export function correlationIdOf(payload: unknown): string | undefined {
  return isRecord(payload) ? parseCorrelationId(payload['correlationId']) : undefined;
}

/** The amount a payload names, for people to read; undefined when it names none or one that is not a number or a text. */
export function amountTextOf(payload: unknown): string | undefined {
  const amount = isRecord(payload) ? payload['amount'] : undefined;
  return typeof amount === 'number' || typeof amount === 'string' ? String(amount) : undefined;
}

/** The beginning of a payload's text, in whole characters, that fits into so many bytes of UTF-8. */
export function beginningOf(text: string, maxBytes: number): string {
  const encoded = Buffer.from(text);
  if (encoded.length <= maxBytes) return text;
  // A streaming decoder keeps an unfinished character back.
  return new TextDecoder().decode(encoded.subarray(0, maxBytes), { stream: true });
}

/** Judges a payload. Names every fault, not only the first. */
export function parsePayment(payload: unknown): { payment: Payment } | { faults: readonly ParameterFault[] } {
  if (!isRecord(payload)) return { faults: [{ param: 'body', message: 'must be a JSON object' }] };
  const correlationId = parseCorrelationId(payload['correlationId']);
  const amount = readAmount(payload['amount']);
  if (correlationId !== undefined && 'cents' in amount)
    return { payment: { correlationId, amountCents: amount.cents } };
  const faults: ParameterFault[] = [];
  if (correlationId === undefined) {
    faults.push({ param: 'correlationId', message: correlationIdFault(payload['correlationId']) });
  }
  if ('fault' in amount) faults.push({ param: 'amount', message: amount.fault });
  return { faults };
}

function correlationIdFault(value: unknown): string {
  if (value === undefined) return 'is missing';
  return `must be a UUID, not ${typeof value === 'number' ? value : nameOf(value)}`;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
