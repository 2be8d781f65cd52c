import { beginningOf } from '../payment.ts';

/** How much of a payload a failed job keeps, in bytes. */
const KEPT_PAYLOAD_BYTES = 2 * 1024;

/** More brackets than this, and a payload may be nested too deep for the dashboards of older versions. */
const MAX_BRACKETS = 100;

/** A correlationId or amount longer than this is none. In characters. */
const MAX_SCALAR = 100;

/**
 * What a failed job keeps in place of a payload that is long or nested: its beginning as text, and what a worker would
 * read of it. So a worker to whom an older dashboard gives the job again judges it as it would have judged the payload.
 * Undefined when the payload can stay as it is.
 */
export function shortData(payload: string | undefined): string | undefined {
  if (payload === undefined) return undefined;
  const bytes = Buffer.byteLength(payload);
  const brackets = payload.match(/[[{]/g)?.length ?? 0;
  if (bytes <= KEPT_PAYLOAD_BYTES && brackets <= MAX_BRACKETS) return undefined;
  const { correlationId, amount } = scalarsOf(payload);
  return JSON.stringify({
    correlationId,
    amount,
    payload: beginningOf(payload, KEPT_PAYLOAD_BYTES),
    payloadBytes: bytes,
  });
}

function scalarsOf(payload: string): { correlationId?: unknown; amount?: unknown } {
  let value: unknown;
  try {
    value = JSON.parse(payload);
  } catch {
    // Whoever wrote the job, it was not our API. The text is all there is.
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return {};
  const isShort = ([name, field]: [string, unknown]) =>
    (name === 'correlationId' || name === 'amount') &&
    (typeof field === 'number' || (typeof field === 'string' && field.length <= MAX_SCALAR));
  return Object.fromEntries(Object.entries(value).filter(isShort));
}
