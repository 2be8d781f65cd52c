import { parseAmountCents } from '../payment.ts';
import { parseJson } from './classify-attempt.ts';
import type { PaymentOnRecord } from './gateway.ts';

/**
 * Reads a gateway's look-up response. Undefined when amount or time is missing, or when it names another payment.
 *
 * It also reads other spellings: keys in any case, with or without `_` and `-` (older .NET writes PascalCase), an amount as a
 * string, a space for the T of a time, a byte-order mark.
 */
export function parsePaymentOnRecord(body: string, correlationId: string): PaymentOnRecord | undefined {
  const value = parseJson(body);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
  const fields = new Map(Object.entries(value).map(([key, field]) => [key.toLowerCase().replace(/[_-]/g, ''), field]));
  const id = fields.get('correlationid');
  if (id !== undefined && String(id).toLowerCase() !== correlationId) return undefined;
  const amountCents = parseAmountCents(numberOf(fields.get('amount')));
  const requestedAt = parseTime(fields.get('requestedat'));
  return amountCents === undefined || requestedAt === undefined ? undefined : { amountCents, requestedAt };
}

function numberOf(amount: unknown): unknown {
  return typeof amount === 'string' && /^\s*\d+(\.\d+)?\s*$/.test(amount) ? Number(amount) : amount;
}

const TIME = /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d(?:[.,]\d+)?)\s*(Z|[+-]\d\d(?::?\d\d)?)?$/i;

/** A time without an offset is UTC: the gateway keeps UTC and may omit the Z. */
function parseTime(text: unknown): Date | undefined {
  const match = typeof text === 'string' ? TIME.exec(text.trim()) : null;
  if (!match) return undefined;
  const [, date, time, zone = 'Z'] = match;
  const offset = /^[+-]\d\d$/.test(zone) ? `${zone}:00` : zone.replace(/^([+-]\d\d)(\d\d)$/, '$1:$2').toUpperCase();
  const instant = new Date(`${date}T${time!.replace(',', '.')}${offset}`);
  return Number.isNaN(instant.getTime()) ? undefined : instant;
}
