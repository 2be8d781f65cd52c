import { describeError } from '../logger.ts';
import type { AttemptOutcome } from './gateway.ts';

/** The parts of an HTTP answer that the verdict rests on. */
export interface GatewayAnswer {
  readonly statusCode: number;
  readonly body: string;
}

/**
 * What an answer to `POST /payments` says. The gateway injects failures as a 5xx with an empty body, before it charges;
 * a 5xx with a message comes from the inside of its handler and proves nothing (source: the official payment processor).
 */
export function classifyAnswer({ statusCode, body }: GatewayAnswer, requestedAt: Date): AttemptOutcome {
  const cause = `HTTP ${statusCode}`;
  if (statusCode >= 200 && statusCode < 300) return { kind: 'paid', requestedAt };
  if (statusCode === 422) return { kind: 'already_paid' };
  if (statusCode === 429) return { kind: 'refused', cause };
  if (statusCode >= 500 && body === '') return { kind: 'refused', cause };
  // Only a 400 judges the payment. A 401, 403, 404, 405 … tells of a wrong address, a missing right or a gateway being
  // deployed: faults that pass, and that would turn a whole queue into dead letters.
  if (statusCode === 400) return { kind: 'invalid', cause: body === '' ? cause : `${cause}: ${body.slice(0, 200)}` };
  return { kind: 'unknown', cause };
}

/** Raised by the operating system or the resolver before there is a connection. */
const NO_CONNECTION = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'ENETUNREACH', 'EHOSTUNREACH']);

/** The parts of a got error that the verdict rests on, beyond those of any Error. */
interface GotFailure {
  readonly code?: unknown;
  /** Set on a TimeoutError: the phase that took too long. */
  readonly event?: unknown;
  readonly timings?: { readonly connect?: number | undefined } | undefined;
}

/** What a failed request says. The list of what was certainly not sent is closed; whatever it does not name is unknown. */
export function classifyFailure(error: Error & GotFailure): AttemptOutcome {
  const cause = describeError(error);
  return isCertainlyNotSent(error) ? { kind: 'not_sent', reason: 'unreachable', cause } : { kind: 'unknown', cause };
}

function isCertainlyNotSent({ name, code, event, timings }: Error & GotFailure): boolean {
  if (name === 'TimeoutError') {
    // Without the handshake of TLS nothing of the request has left.
    if (event === 'secureConnect') return true;
    // got notes when a socket was connected, for a kept one too: without that note the time ended in connecting.
    if (timings?.connect !== undefined) return false;
    return event === 'lookup' || event === 'connect' || (event === 'request' && timings !== undefined);
  }
  return typeof code === 'string' && NO_CONNECTION.has(code) && timings?.connect === undefined;
}
