import type { ParameterFault } from './errors.ts';

/** A payment as the worker forwards it. Money is whole cents; nothing calculates with floats. */
export interface Payment {
  /** UUID in lower case: the idempotency key at the queue, the gateways and the ledger. */
  readonly correlationId: string;
  /** 1 to {@link MAX_AMOUNT_CENTS}. */
  readonly amountCents: number;
}

/** The two gateways. The summary's JSON and the ledger's columns call the primary `default`. */
export type GatewayName = 'primary' | 'fallback';

/**
 * Largest amount. A double has 53 bits, so up to 2^53 it can represent every cent. The factor of two below that is for
 * rounding.
 */
export const MAX_AMOUNT_CENTS = 2 ** 52;

/**
 * Largest distance between an amount and whole cents, in units and relative to the amount. Clients calculate with doubles:
 * 0.1 + 0.2 is 0.30000000000000004. The relative bound is millions of times the error of one operation, so it accepts sums
 * of thousands of items. The fixed bound ensures that half a cent of a large amount does not count as such an error.
 */
const MAX_NOISE = 0.0001;
const MAX_NOISE_SHARE = 1e-9;

/** How many characters of a faulty value a message quotes: enough to recognise a value of any size. */
const SHOWN_CHARACTERS = 40;

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** The normal form of a UUID, or undefined for anything else. */
export function parseCorrelationId(value: unknown): string | undefined {
  return typeof value === 'string' && UUID.test(value) ? value.toLowerCase() : undefined;
}

/**
 * Converts an amount in units to whole cents. Undefined unless it is a positive number with at most 2 decimals, apart from
 * the noise of floating-point arithmetic, and at most {@link MAX_AMOUNT_CENTS}.
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

/** The whole cents of a positive number of units, or undefined when the number lies between two cents. */
function wholeCents(amount: number): number | undefined {
  const nearest = Math.round(amount * 100);
  const tolerance = Math.min(MAX_NOISE_SHARE * amount, MAX_NOISE);
  // Near the largest amount, multiplying by 100 rounds by more than half a cent, so both neighbours are candidates as well.
  // Doubles lie further apart there than the tolerance: only the double nearest to a cent, the result of the division, is it.
  return [nearest, nearest - 1, nearest + 1].find(
    (cents) => cents >= 1 && (cents / 100 === amount || Math.abs(amount - cents / 100) <= tolerance),
  );
}

/** Describes a value that is not a number. Strings are quoted and escaped, so that a reader recognises them as strings. */
function nameOf(value: unknown): string {
  if (typeof value === 'string') return `the string ${quoted(value)}`;
  if (Array.isArray(value)) return 'an array';
  return typeof value === 'object' && value !== null ? 'an object' : String(value);
}

function quoted(text: string): string {
  if (text.length <= SHOWN_CHARACTERS) return JSON.stringify(text);
  // Drops half of a surrogate pair at the end.
  const start = text.slice(0, SHOWN_CHARACTERS).replace(/[\uD800-\uDBFF]$/, '');
  return `${JSON.stringify(start)}… (${text.length} characters)`;
}

/** The id of a payload, whether or not the rest is valid. Undefined when the payload has no valid id. */
export function correlationIdOf(payload: unknown): string | undefined {
  return isRecord(payload) ? parseCorrelationId(payload['correlationId']) : undefined;
}

/** The amount of a payload as text for people. Undefined when the amount is missing or neither number nor text. */
export function amountTextOf(payload: unknown): string | undefined {
  const amount = isRecord(payload) ? payload['amount'] : undefined;
  return typeof amount === 'number' || typeof amount === 'string' ? String(amount) : undefined;
}

/** The longest beginning of a text that has whole characters only and at most `maxBytes` bytes of UTF-8. */
export function beginningOf(text: string, maxBytes: number): string {
  const encoded = Buffer.from(text);
  if (encoded.length <= maxBytes) return text;
  // A streaming decoder omits an unfinished character.
  return new TextDecoder().decode(encoded.subarray(0, maxBytes), { stream: true });
}

/** Validates a payload. The result lists every fault, not only the first. */
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
