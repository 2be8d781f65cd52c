import { describeError } from '../process/describe-error.ts';
import type { AttemptCause, GatewayEvidence } from './gateway.ts';

/** The parts of an HTTP response that its verdict rests on. */
export interface GatewayResponse {
  readonly statusCode: number;
  /**
   * Its text after decompression. Undefined when it is not usable: larger than {@link MAX_BODY_BYTES}, cut off, or timed out.
   */
  readonly body: string | undefined;
}

/** Upper bound on what is read of a response, in bytes, before and after decompression. Gateways respond with one line. */
export const MAX_BODY_BYTES = 64 * 1024;

/**
 * What to conclude from a response to `POST /payments`.
 * - `paid_if_known`: paid when the body is known from a payment that the gateway certainly has; otherwise as `ask`.
 * - `ask`: the look-up decides: on record, it is paid; otherwise the attempt is unknown.
 * - `already_paid`: the look-up gives what is on record; otherwise the attempt is unknown.
 */
export type Verdict = 'paid_if_known' | 'ask' | 'already_paid' | 'refused' | 'doubtful' | 'unknown';

interface VerdictRow {
  readonly response: string;
  readonly matches: (response: GatewayResponse, rules: VerdictRules) => boolean;
  readonly verdict: Verdict;
}

export interface VerdictRules {
  /** `GATEWAY_EMPTY_500`: whether a 500 with an empty body proves that the payment was not charged. */
  readonly empty500: 'unknown' | 'refused';
}

/**
 * A verdict needs proof. Proxies, firewalls and load balancers respond in a gateway's place, so only what the gateway itself
 * is documented to respond counts. The first row that matches decides.
 */
export const VERDICTS: readonly VerdictRow[] = [
  {
    response: '200 or 201, complete, a JSON object within 64 KiB',
    matches: ({ statusCode, body }) => (statusCode === 200 || statusCode === 201) && isJsonObject(body),
    verdict: 'paid_if_known',
  },
  {
    response: 'any other 2xx',
    matches: ({ statusCode }) => statusCode >= 200 && statusCode < 300,
    verdict: 'ask',
  },
  {
    response: '422 or 409',
    matches: ({ statusCode }) => statusCode === 422 || statusCode === 409,
    verdict: 'already_paid',
  },
  { response: '429', matches: ({ statusCode }) => statusCode === 429, verdict: 'refused' },
  {
    response: '500 with a complete, empty body, and GATEWAY_EMPTY_500=refused',
    matches: ({ statusCode, body }, { empty500 }) => statusCode === 500 && body === '' && empty500 === 'refused',
    verdict: 'refused',
  },
  {
    response: '400 with a complete JSON body within 64 KiB',
    matches: ({ statusCode, body }) => statusCode === 400 && isJson(body),
    verdict: 'doubtful',
  },
  { response: 'any other status', matches: () => true, verdict: 'unknown' },
];

export function classifyResponse(response: GatewayResponse, rules: VerdictRules): Verdict {
  return VERDICTS.find(({ matches }) => matches(response, rules))!.verdict;
}

/** What a response says, for a log line: the status and the first 80 characters of its body. */
export function causeOfResponse({ statusCode, body }: GatewayResponse): AttemptCause {
  const start = body === undefined ? '(no usable body)' : body.slice(0, 80).replace(/\s+/g, ' ').trim();
  return { code: `http_${statusCode}`, detail: start === '' ? `HTTP ${statusCode}` : `HTTP ${statusCode}: ${start}` };
}

/** How far a request got before it failed without a complete response head. */
export type RequestPhase =
  /** No connection: name not found, refused, timed out, or the TLS handshake failed. Nothing was sent. */
  | 'connecting'
  /** The connection was ready, so the request may have been carried out. */
  | 'connected';

/**
 * What a failed request proves. The phase decides, never the error's code: the same code occurs before and after a request
 * was carried out (seen: ERR_SSL_BAD_RECORD_TYPE after it).
 */
export function classifyFailure(phase: RequestPhase, error: Error): { cause: AttemptCause; evidence: GatewayEvidence } {
  const code = 'code' in error && typeof error.code === 'string' ? error.code : error.name;
  return {
    cause: { code, detail: describeError(error) },
    evidence: phase === 'connecting' ? 'not_sent' : 'no_response',
  };
}

/** The longest pause that a gateway may ask for. A longer one is cut to this. */
export const MAX_RETRY_AFTER_MS = 30_000;

/** More than a day cannot mean a pause between two payments. Such a header counts as absent. */
const ABSURD_RETRY_AFTER_MS = 86_400_000;

/** `Retry-After` in ms (RFC 9110, 10.2.3: seconds or an HTTP date), or undefined when it is absent or makes no sense. */
export function parseRetryAfter(header: string | undefined, nowMs = Date.now()): number | undefined {
  if (header === undefined) return undefined;
  const text = header.trim();
  const ms = /^\d{1,9}$/.test(text)
    ? Number(text) * 1_000
    : HTTP_DATE.test(text)
      ? Date.parse(/GMT$/.test(text) ? text : `${text} GMT`) - nowMs
      : Number.NaN;
  return ms > 0 && ms <= ABSURD_RETRY_AFTER_MS ? Math.min(ms, MAX_RETRY_AFTER_MS) : undefined;
}

/**
 * A date starts with the name of a day: `Date.parse` would also accept other texts. The oldest of the three forms names no
 * zone and is always GMT.
 */
const HTTP_DATE = /^(Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? /;

function isJson(body: string | undefined): boolean {
  return body !== undefined && parseJson(body) !== undefined;
}

function isJsonObject(body: string | undefined): boolean {
  const value = body === undefined ? undefined : parseJson(body);
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The value of a JSON text, or undefined for any other text. A byte-order mark is skipped (.NET writes one). */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text.charCodeAt(0) === 0xfeff ? text.slice(1) : text);
  } catch {
    return undefined;
  }
}
