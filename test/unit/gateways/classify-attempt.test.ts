import { expect } from 'chai';
import { classifyAnswer, classifyFailure } from '../../../src/gateways/classify-attempt.ts';

const REQUESTED_AT = new Date('2025-07-15T12:00:00.000Z');

describe('classifyAnswer', () => {
  const answers: [statusCode: number, body: string, kind: string][] = [
    [200, '{"message":"payment processed successfully"}', 'paid'],
    [200, '', 'paid'],
    [201, '', 'paid'],
    [204, '', 'paid'],
    [299, '', 'paid'],
    [422, '', 'already_paid'],
    [422, '{"message":"CorrelationId already exists"}', 'already_paid'],
    [429, '', 'refused'],
    [429, '{"message":"slow down"}', 'refused'],
    [500, '', 'refused'],
    [502, '', 'refused'],
    [503, '', 'refused'],
    [500, '{"message":"something broke"}', 'unknown'],
    [500, ' ', 'unknown'],
    [502, '<html>Bad Gateway</html>', 'unknown'],
    [504, '<html>Gateway Time-out</html>', 'unknown'],
    [400, '', 'invalid'],
    [400, 'amount is wrong', 'invalid'],
    [301, '', 'unknown'],
    [302, '', 'unknown'],
    [304, '', 'unknown'],
    [307, '', 'unknown'],
    [401, '', 'unknown'],
    [403, '', 'unknown'],
    [404, '', 'unknown'],
    [405, '', 'unknown'],
    [408, '', 'unknown'],
    [409, '', 'unknown'],
    [413, '', 'unknown'],
    [101, '', 'unknown'],
    [199, '', 'unknown'],
  ];
  for (const [statusCode, body, kind] of answers) {
    it(`takes ${statusCode} with ${body === '' ? 'an empty body' : `"${body}"`} as ${kind}`, () => {
      expect(classifyAnswer({ statusCode, body }, REQUESTED_AT).kind).to.equal(kind);
    });
  }

  it('keeps the time the payment was sent with', () => {
    expect(classifyAnswer({ statusCode: 200, body: '' }, REQUESTED_AT)).to.deep.equal({
      kind: 'paid',
      requestedAt: REQUESTED_AT,
    });
  });

  it('names the status as cause', () => {
    expect(classifyAnswer({ statusCode: 503, body: '' }, REQUESTED_AT)).to.deep.equal({
      kind: 'refused',
      cause: 'HTTP 503',
    });
  });

  it('repeats what a refusal for good says, up to 200 characters', () => {
    expect(classifyAnswer({ statusCode: 400, body: 'x'.repeat(1_000) }, REQUESTED_AT)).to.deep.equal({
      kind: 'invalid',
      cause: `HTTP 400: ${'x'.repeat(200)}`,
    });
  });
});

describe('classifyFailure', () => {
  interface Failure {
    name?: string;
    code?: string | number;
    event?: string;
    timings?: { connect?: number | undefined };
  }
  const failure = (fields: Failure) => Object.assign(new Error('it failed'), fields);
  const timeout = (event: string, timings?: Failure['timings']): Failure => ({
    name: 'TimeoutError',
    code: 'ETIMEDOUT',
    event,
    ...(timings && { timings }),
  });

  const notSent: [title: string, fields: Failure][] = [
    ['a refused connection', { code: 'ECONNREFUSED' }],
    ['a name that is not found', { code: 'ENOTFOUND' }],
    ['a resolver that is not there', { code: 'EAI_AGAIN' }],
    ['an unreachable network', { code: 'ENETUNREACH' }],
    ['an unreachable host', { code: 'EHOSTUNREACH' }],
    ['a refused connection by its timings', { code: 'ECONNREFUSED', timings: { connect: undefined } }],
    ['a time-out while looking up the name', timeout('lookup')],
    ['a time-out while connecting', timeout('connect', { connect: undefined })],
    ['a time-out of the TLS handshake', timeout('secureConnect', { connect: 1 })],
    ['a time-out of a request that was still connecting', timeout('request', { connect: undefined })],
  ];
  for (const [title, fields] of notSent) {
    it(`takes ${title} as not sent`, () => {
      expect(classifyFailure(failure(fields))).to.include({ kind: 'not_sent', reason: 'unreachable' });
    });
  }

  const unknown: [title: string, fields: Failure][] = [
    ['a time-out of the response', timeout('response', { connect: 1 })],
    ['a time-out of the socket', timeout('socket', { connect: 1 })],
    ['a time-out while sending', timeout('send', { connect: 1 })],
    ['a time-out of a request under way', timeout('request', { connect: 1 })],
    ['a time-out of a request of which nothing is known', timeout('request')],
    ['a time-out of reading', timeout('read', { connect: 1 })],
    ['a time-out without a phase', { name: 'TimeoutError', code: 23 }],
    ['a time-out of connecting on a connection that is there', timeout('connect', { connect: 1 })],
    ['a time-out whose code is of another kind', { name: 'TimeoutError', code: 'ECONNREFUSED', event: 'response' }],
    ['a reset', { code: 'ECONNRESET' }],
    ['a reset before connecting', { code: 'ECONNRESET', timings: { connect: undefined } }],
    ['a broken pipe', { code: 'EPIPE' }],
    ['an answer that cannot be read', { code: 'ERR_BODY_PARSE_FAILURE' }],
    ['a time-out of the operating system', { code: 'ETIMEDOUT' }],
    ['an abort', { name: 'AbortError', code: 'ERR_ABORTED' }],
    ['an error without a code', {}],
    ['a refusal on a connection that was there', { code: 'ECONNREFUSED', timings: { connect: 1 } }],
  ];
  for (const [title, fields] of unknown) {
    it(`takes ${title} as unknown`, () => {
      expect(classifyFailure(failure(fields)).kind).to.equal('unknown');
    });
  }

  it('describes the error as cause', () => {
    expect(classifyFailure(failure({ code: 'ECONNRESET' }))).to.deep.equal({
      kind: 'unknown',
      cause: 'Error ECONNRESET: it failed',
    });
  });
});
