import type { IncomingMessage } from 'node:http';
import { InvalidRequestError } from '../../../errors.ts';
import { readJsonBody } from '../../payments/json-body.ts';

/** It is shown in one line, in every worker's log and in the status of every payment that waits for it. */
export const MAX_REASON_LENGTH = 200;

/**
 * Reads `{"reason": "…"}`: why an operator makes a change.
 * @throws InvalidRequestError without one, and as `readJsonBody` does
 */
export async function readReason(request: IncomingMessage): Promise<string> {
  const { value } = await readJsonBody(request);
  const { reason } = (value ?? {}) as { reason?: unknown };
  const text = typeof reason === 'string' ? reason.trim() : '';
  if (text === '' || text.length > MAX_REASON_LENGTH) {
    const message = `must be a text of 1 to ${MAX_REASON_LENGTH} characters`;
    throw new InvalidRequestError([{ param: 'reason', message }]);
  }
  return text;
}
