import { beginningOf } from '../payment.ts';

/** How much of a payload a failed job keeps, in bytes. */
const KEPT_PAYLOAD_BYTES = 2 * 1024;

/** With more brackets a payload may be nested too deeply for the dashboards of older versions. */
const MAX_BRACKETS = 100;

/** A longer correlationId or amount is invalid. In characters. */
const MAX_SCALAR = 100;

/**
 * What a failed job keeps instead of a long or deeply nested payload: the beginning as text, and the two fields that a worker
 * reads. When an older dashboard retries the job, the worker decides as it would have for the whole payload.
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
    // Our API did not write this job. Its text is all there is.
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return {};
  const isShort = ([name, field]: [string, unknown]) =>
    (name === 'correlationId' || name === 'amount') &&
    (typeof field === 'number' || (typeof field === 'string' && field.length <= MAX_SCALAR));
  return Object.fromEntries(Object.entries(value).filter(isShort));
}
