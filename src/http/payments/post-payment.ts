import type { RequestHandler } from 'express';
import { InvalidRequestError } from '../../errors.ts';
import { correlationIdOf, parsePayment } from '../../payment.ts';
import type { AppDeps } from '../app.ts';
import { readJsonBody } from './json-body.ts';

/** `POST /payments`: 204 once the payment is in Redis. The worker validates the payload; with PAYMENTS_VALIDATE so does this route. */
export function postPayment({ enqueuer, config }: Pick<AppDeps, 'enqueuer' | 'config'>): RequestHandler {
  return async (request, response) => {
    const { text, value } = await readJsonBody(request);
    if (config.validatePayments) {
      const parsed = parsePayment(value);
      if ('faults' in parsed) throw new InvalidRequestError(parsed.faults);
    }
    await enqueuer.enqueue({ id: correlationIdOf(value), data: text });
    response.writeHead(204).end();
  };
}
