import type { RequestHandler } from 'express';
import type { AppDeps } from '../app.ts';

/** `GET /payments/{correlationId}`: where the payment is, and why it is not paid yet. */
export function getPayment({ findPaymentStatus }: Pick<AppDeps, 'findPaymentStatus'>): RequestHandler {
  return async ({ params }, response) => {
    response.json(await findPaymentStatus(params['correlationId'] as string));
  };
}
