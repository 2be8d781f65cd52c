import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import type { AttemptOutcome } from '../../../src/gateways/gateway.ts';
import type { DeadLetterCode } from '../../../src/ledger/dead-letters.ts';
import type { GatewayName } from '../../../src/payment.ts';
import {
  DEAD_LETTER_REASONS,
  type DeadLetterReason,
  GATEWAYS,
  NOT_ACCEPTED_REASONS,
  OUTCOMES,
  type Outcome,
} from '../../../src/telemetry/labels.ts';

/** Codes of errors that no payment gets: of other routes, of a login, or of a request that reached no route. */
const NOT_OF_A_PAYMENT = [
  'busy',
  'ledger_unavailable',
  'unauthorized',
  'too_many_logins',
  'forbidden',
  'not_found',
  'method_not_allowed',
  'conflict',
  'expectation_failed',
  'headers_too_large',
];

describe('the known values of labels', () => {
  it('have every code that a response to a payment can have', () => {
    const source = ['src/errors.ts', 'src/http/connections.ts'].map((path) => readFileSync(path, 'utf8')).join('\n');
    const codes = new Set([...source.matchAll(/code(?: =|:) '([a-z_]+)'/g)].map(([, code]) => code!));
    expect([...NOT_ACCEPTED_REASONS, ...NOT_OF_A_PAYMENT]).to.have.members([...codes]);
  });

  // The compiler checks these: a value that is missing here, or there, is no key.
  it('have the outcomes, dead letters and gateways of the other rooms', () => {
    const outcomes: Record<AttemptOutcome['kind'], Outcome> & Record<Outcome, AttemptOutcome['kind']> = {
      paid: 'paid',
      already_paid: 'already_paid',
      not_sent: 'not_sent',
      refused: 'refused',
      doubtful: 'doubtful',
      unknown: 'unknown',
    };
    const deadLetters: Record<DeadLetterCode, DeadLetterReason> & Record<DeadLetterReason, DeadLetterCode> = {
      invalid_payment: 'invalid_payment',
      rejected: 'rejected',
      payload_missing: 'payload_missing',
    };
    const gateways: Record<GatewayName, (typeof GATEWAYS)[number]> = { primary: 'primary', fallback: 'fallback' };
    expect(OUTCOMES).to.have.members(Object.keys(outcomes));
    expect(DEAD_LETTER_REASONS).to.have.members(Object.keys(deadLetters));
    expect(GATEWAYS).to.have.members(Object.keys(gateways));
  });
});
