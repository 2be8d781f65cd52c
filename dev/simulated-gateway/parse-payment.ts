const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const ISO_TIME =
  /^(\d{4})-(\d{2})-(\d{2})(?:T(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)?)?$/;

export interface ParsedPayment {
  correlationId: string;
  amountCents: number;
  requestedAt: string;
  requestedAtMs: number;
}

/** The payment, or a sentence that says why the body is none. */
export function parsePayment(body: Buffer): ParsedPayment | string {
  const data = parseJsonObject(body);
  if (!data) return 'the body must be a JSON object';
  const { correlationId, amount, requestedAt } = data;
  if (typeof correlationId !== 'string' || !UUID.test(correlationId)) return 'correlationId must be a UUID';
  if (typeof amount !== 'number' || !(amount > 0)) return 'amount must be a number above 0';
  const amountCents = roundToCents(amount);
  if (!Number.isSafeInteger(amountCents)) return 'amount is too large';
  const requestedAtMs = typeof requestedAt === 'string' ? parseTime(requestedAt) : undefined;
  if (requestedAtMs === undefined) return 'requestedAt must be an ISO 8601 time';
  return {
    correlationId: correlationId.toLowerCase(),
    amountCents,
    requestedAtMs,
    requestedAt: new Date(requestedAtMs).toISOString(),
  };
}

export function parseJsonObject(body: Buffer): Record<string, unknown> | undefined {
  try {
    const data: unknown = JSON.parse(body.toString());
    return typeof data === 'object' && data !== null ? (data as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

/** Unix ms, cut off below. A time without an offset is UTC, as in the official TIMESTAMP column. Undefined for any other text. */
export function parseTime(text: string): number | undefined {
  const match = ISO_TIME.exec(text);
  if (!match) return undefined;
  const [, year, month, day, offset] = match;
  const isDateOnly = text.length === 10;
  const ms = Date.parse(offset || isDateOnly ? text : `${text}Z`);
  // Date.parse reads 30 February as 2 March.
  const daysInMonth = new Date(Date.UTC(Number(year), Number(month), 0)).getUTCDate();
  return Number.isNaN(ms) || Number(day) > daysInMonth ? undefined : ms;
}

/** Half to even on the decimal digits that were sent: 0.125 -> 12, 0.135 -> 14. */
function roundToCents(amount: number): number {
  const nearest = Math.round(amount * 100);
  if (nearest / 100 === amount) return nearest; // at most two decimals: nearly every payment
  const { digits, scale } = toDecimal(amount);
  if (scale <= 2) return Number(digits * 10n ** BigInt(2 - scale));
  const divisor = 10n ** BigInt(scale - 2);
  const quotient = digits / divisor;
  const twiceRest = (digits % divisor) * 2n;
  const roundsUp = twiceRest > divisor || (twiceRest === divisor && quotient % 2n === 1n);
  return Number(roundsUp ? quotient + 1n : quotient);
}

/** The decimal number that stands for the float: value = digits / 10 ** scale. */
export function toDecimal(value: number): { digits: bigint; scale: number } {
  const [mantissa = '0', exponent = '0'] = String(value).split('e');
  const [whole = '0', fraction = ''] = mantissa.split('.');
  const digits = BigInt(whole + fraction);
  const scale = fraction.length - Number(exponent);
  return scale < 0 ? { digits: digits * 10n ** BigInt(-scale), scale: 0 } : { digits, scale };
}
