import { expect } from 'chai';
import { events, HUNG_UP } from '../../../src/telemetry/events.ts';
import type { Histogram } from '../../../src/telemetry/histogram.ts';
import { createMeasures } from '../../../src/telemetry/measures.ts';
import { atTestEnd } from '../../support/cleanup.ts';

function setUp() {
  const measures = createMeasures();
  atTestEnd(() => measures.close());
  return measures;
}

const countOf = ({ counts }: Histogram) => counts.reduce((sum, count) => sum + count, 0);

const request = (route: string, method: string, status: number, code?: string) =>
  events.requestFinished.publish({ route, method, status, code, durationMs: 3 });

describe('measures', () => {
  it('count a payment with a 204 as accepted, with its duration', () => {
    const measures = setUp();
    request('/payments', 'POST', 204);
    expect(measures.accepted).to.equal(1);
    expect(measures.hops.accept.sum).to.equal(3);
  });

  it('count a payment with an error by its code', () => {
    const measures = setUp();
    request('/payments', 'POST', 503, 'queue_full');
    request('/payments', 'POST', 503, 'queue_full');
    expect(measures.accepted).to.equal(0);
    expect(measures.notAccepted).to.include({ queue_full: 2, queue_unavailable: 0 });
    expect(countOf(measures.hops.accept)).to.equal(0);
  });

  it('count a code that they do not know', () => {
    const measures = setUp();
    request('/payments', 'POST', 418, 'teapot');
    expect(measures.notAccepted).to.include({ teapot: 1 });
  });

  it('do not count other requests, nor a client that hung up, as payments', () => {
    const measures = setUp();
    request('/payments', 'GET', 405, 'method_not_allowed');
    request('/purge-payments', 'POST', 204);
    request('/payments', 'POST', HUNG_UP);
    expect(measures.accepted).to.equal(0);
    expect(Object.values(measures.notAccepted).every((count) => count === 0)).to.equal(true);
    expect([...measures.serverRequests].map(([route, method, status]) => [route, method, status])).to.deep.equal([
      ['/payments', 'GET', 405],
      ['/payments', 'POST', HUNG_UP],
      ['/purge-payments', 'POST', 204],
    ]);
  });

  it('have one label for all methods that no route has', () => {
    const measures = setUp();
    for (const method of ['PROPFIND', 'M-SEARCH', '']) request('unmatched', method, 404);
    expect([...measures.serverRequests].map(([, method]) => method)).to.deep.equal(['_OTHER']);
  });

  it('count money, payments, attempts and dead letters', () => {
    const measures = setUp();
    events.paymentTaken.publish({ waitMs: 40 });
    events.attemptEnded.publish({ correlationId: 'a', gateway: 'fallback', outcome: 'unknown', durationMs: 7 });
    events.paymentPaid.publish({ gateway: 'primary', amountCents: 1990, recordMs: 2 });
    events.paymentPaid.publish({ gateway: 'primary', amountCents: 10, recordMs: 2 });
    events.paymentDead.publish({ reason: 'rejected' });
    expect(measures.paid).to.deep.equal({ primary: 2, fallback: 0 });
    expect(measures.paidCents).to.deep.equal({ primary: 2000, fallback: 0 });
    expect(measures.attempts.fallback).to.include({ unknown: 1, paid: 0 });
    expect(measures.deadLetters).to.deep.equal({ invalid_payment: 0, rejected: 1, payload_missing: 0 });
    expect([measures.hops.wait.sum, measures.hops.send.sum, measures.hops.record.sum]).to.deep.equal([40, 7, 4]);
  });

  it('count each request to a gateway by its status or the failure', () => {
    const measures = setUp();
    events.gatewayRequestEnded.publish({ gateway: 'primary', status: 200, durationMs: 1 });
    events.gatewayRequestEnded.publish({ gateway: 'primary', errorType: 'ETIMEDOUT', durationMs: 1000 });
    const labels = [...measures.gatewayRequests].map(([gateway, error, status]) => [gateway, error, status]);
    expect(labels).to.deep.equal([
      ['primary', '', 200],
      ['primary', 'ETIMEDOUT', 0],
    ]);
  });

  it('count nothing after their end, and keep what they have', () => {
    const measures = setUp();
    request('/payments', 'POST', 204);
    measures.close();
    request('/payments', 'POST', 204);
    expect(measures.accepted).to.equal(1);
  });
});
