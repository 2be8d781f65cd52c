import { expect } from 'chai';
import {
  causeOfResponse,
  classifyFailure,
  classifyResponse,
  parseJson,
  parseRetryAfter,
  VERDICTS,
} from '../../../src/gateways/classify-attempt.ts';

const RULES = { empty500: 'unknown' } as const;

function verdict(statusCode: number, body: string | undefined, empty500: 'unknown' | 'refused' = 'unknown'): string {
  return classifyResponse({ statusCode, body }, { empty500 });
}

/** The verdicts of one body under many statuses. */
function verdicts(statusCodes: readonly number[], body: string | undefined): string[] {
  return [...new Set(statusCodes.map((statusCode) => verdict(statusCode, body)))];
}

describe('classifyResponse', () => {
  it('takes 200 and 201 with a JSON object as paid if the body is known', () => {
    expect(verdicts([200, 201], '{"message":"payment processed successfully"}')).to.deep.equal(['paid_if_known']);
    expect(verdict(200, '\ufeff{}'), 'after a byte-order mark').to.equal('paid_if_known');
  });

  it('asks for a look-up after any other 2xx', () => {
    expect(verdicts([202, 203, 204, 206, 299], '{}')).to.deep.equal(['ask']);
    const bodies = ['', 'ok', '<html>Welcome</html>', '[]', 'null', '"ok"', '1', '{"cut":', undefined];
    expect([...new Set(bodies.map((body) => verdict(200, body)))]).to.deep.equal(['ask']);
  });

  it('takes 422 and 409 as already paid, whatever the body', () => {
    expect(verdicts([422, 409], '{"message":"CorrelationId already exists"}')).to.deep.equal(['already_paid']);
    expect(verdicts([422, 409], undefined)).to.deep.equal(['already_paid']);
  });

  it('takes 429 as refused, whatever the body', () => {
    for (const body of ['', '{}', '<html>', undefined]) expect(verdict(429, body)).to.equal('refused');
  });

  it('takes a 500 with a complete, empty body as refused only when GATEWAY_EMPTY_500 says so', () => {
    expect(verdict(500, '', 'refused')).to.equal('refused');
    expect(verdict(500, '', 'unknown')).to.equal('unknown');
    for (const body of [' ', '{}', undefined]) expect(verdict(500, body, 'refused')).to.equal('unknown');
    for (const statusCode of [501, 502, 503, 504]) expect(verdict(statusCode, '', 'refused')).to.equal('unknown');
  });

  it('takes a 400 with a complete JSON body as doubtful', () => {
    for (const body of ['{"error":"amount"}', '[]', '"no"', '1', 'null']) {
      expect(verdict(400, body)).to.equal('doubtful');
    }
  });

  it('takes any other status as unknown', () => {
    for (const body of ['', 'amount is wrong', '<html>400 Bad Request</html>', '{"cut":', undefined]) {
      expect(verdict(400, body)).to.equal('unknown');
    }
    const others = [100, 199, 300, 301, 302, 304, 307, 308, 401, 403, 404, 405, 408, 413, 418, 451, 501, 502, 503, 504];
    expect(verdicts(others, '{}')).to.deep.equal(['unknown']);
    expect(verdicts(others, '')).to.deep.equal(['unknown']);
  });

  it('takes a status that no document names as unknown', () => {
    expect(verdicts([600, 799, 999], '{}')).to.deep.equal(['unknown']);
  });

  it('judges a response without a usable body by its status', () => {
    expect(verdicts([200, 204], undefined)).to.deep.equal(['ask']);
    expect(verdicts([400, 500, 502], undefined)).to.deep.equal(['unknown']);
  });

  it('ends its table with a row that matches everything', () => {
    expect(VERDICTS.at(-1)!.matches({ statusCode: 0, body: undefined }, RULES)).to.equal(true);
    expect(new Set(VERDICTS.map(({ response }) => response)).size).to.equal(VERDICTS.length);
  });
});

describe('causeOfResponse', () => {
  it('names the status, and the first 80 characters of the body on one line', () => {
    expect(causeOfResponse({ statusCode: 400, body: 'x'.repeat(1_000) })).to.deep.equal({
      code: 'http_400',
      detail: `HTTP 400: ${'x'.repeat(80)}`,
    });
    expect(causeOfResponse({ statusCode: 502, body: '<html>\r\n  Bad\tGateway\n' }).detail).to.equal(
      'HTTP 502: <html> Bad Gateway',
    );
  });

  it('names the status alone when the body is empty', () => {
    expect(causeOfResponse({ statusCode: 503, body: '' })).to.deep.equal({ code: 'http_503', detail: 'HTTP 503' });
  });

  it('shows an unusable body differently from an empty one', () => {
    expect(causeOfResponse({ statusCode: 503, body: undefined }).detail).not.to.equal('HTTP 503');
  });
});

describe('classifyFailure', () => {
  const reset = Object.assign(new Error('it failed'), { code: 'ECONNRESET' });

  it('decides by the phase, never by the code', () => {
    const refused = Object.assign(new Error('refused'), { code: 'ECONNREFUSED' });
    expect([reset, refused].map((error) => classifyFailure('connecting', error).evidence)).to.deep.equal([
      'not_sent',
      'not_sent',
    ]);
    expect([reset, refused].map((error) => classifyFailure('connected', error).evidence)).to.deep.equal([
      'no_response',
      'no_response',
    ]);
  });

  it('names the code of the error, and describes it', () => {
    expect(classifyFailure('connected', reset).cause).to.deep.equal({
      code: 'ECONNRESET',
      detail: 'Error ECONNRESET: it failed',
    });
  });

  it('names the kind of the error when it has no code, or one that is not a string', () => {
    expect(classifyFailure('connected', new TypeError('odd')).cause.code).to.equal('TypeError');
    const numbered = Object.assign(new Error('aborted'), { name: 'TimeoutError', code: 23 });
    expect(classifyFailure('connected', numbered).cause.code).to.equal('TimeoutError');
  });
});

describe('parseRetryAfter', () => {
  const NOW_MS = Date.parse('1994-11-06T08:49:30Z');

  it('reads seconds', () => {
    expect(parseRetryAfter('5')).to.equal(5_000);
    expect(parseRetryAfter(' 5 ')).to.equal(5_000);
  });

  it('reads the three forms of an HTTP date', () => {
    expect(parseRetryAfter('Sun, 06 Nov 1994 08:49:37 GMT', NOW_MS)).to.equal(7_000);
    expect(parseRetryAfter('Sunday, 06-Nov-94 08:49:37 GMT', NOW_MS)).to.equal(7_000);
    expect(parseRetryAfter('Sun Nov  6 08:49:37 1994', NOW_MS)).to.equal(7_000);
  });

  it('reads a date without a zone as GMT, whatever the time zone of the machine', () => {
    const { TZ } = process.env;
    process.env['TZ'] = 'America/Sao_Paulo';
    try {
      expect(parseRetryAfter('Sun Nov  6 08:49:37 1994', NOW_MS)).to.equal(7_000);
    } finally {
      if (TZ === undefined) delete process.env['TZ'];
      else process.env['TZ'] = TZ;
    }
  });

  it('waits 30 s at most', () => {
    expect(parseRetryAfter('31')).to.equal(30_000);
    expect(parseRetryAfter('86400')).to.equal(30_000);
    expect(parseRetryAfter('Sun, 06 Nov 1994 09:49:30 GMT', NOW_MS)).to.equal(30_000);
  });

  it('treats zero, the past and more than a day like an absent header', () => {
    for (const header of ['0', '86401', '999999999', '99999999999999999999']) {
      expect(parseRetryAfter(header)).to.equal(undefined);
    }
    expect(parseRetryAfter('Sun, 06 Nov 1994 08:49:30 GMT', NOW_MS)).to.equal(undefined);
    expect(parseRetryAfter('Tue, 08 Nov 1994 08:49:30 GMT', NOW_MS)).to.equal(undefined);
  });

  it('treats a text that is neither seconds nor a date like an absent header', () => {
    for (const header of [
      undefined,
      '',
      'soon',
      '-5',
      '1.5',
      '5s',
      '1e3',
      '0x10',
      '2999-01-01',
      'Monday',
      'Sun, never',
    ]) {
      expect(parseRetryAfter(header), String(header)).to.equal(undefined);
    }
  });
});

describe('parseJson', () => {
  it('reads JSON with and without a byte-order mark, and nothing else', () => {
    expect(parseJson('\ufeff{"a":1}')).to.deep.equal({ a: 1 });
    expect(parseJson('null')).to.equal(null);
    for (const text of ['', '{', '\ufeff\ufeff{}', 'undefined', 'NaN']) expect(parseJson(text)).to.equal(undefined);
  });
});
