import { PassThrough } from 'node:stream';
import { expect } from 'chai';
import { transports } from 'winston';
import { createLogger, describeError } from '../../src/logger.ts';

describe('describeError', () => {
  const withCode = (message: string, code: unknown) => Object.assign(new Error(message), { code });

  const described: [title: string, error: unknown, text: string][] = [
    ['an error by name and message', new TypeError('no such thing'), 'TypeError: no such thing'],
    ['a code between name and message', withCode('refused', 'ECONNREFUSED'), 'Error ECONNREFUSED: refused'],
    ['no code that is not a text', withCode('aborted', 23), 'Error: aborted'],
    [
      'every cause in turn',
      new Error('outer', { cause: new RangeError('middle', { cause: withCode('inner', 'E') }) }),
      'Error: outer <- RangeError: middle <- Error E: inner',
    ],
    ['a cause that is no error', new Error('outer', { cause: 'why' }), 'Error: outer <- why'],
    [
      'all errors of an aggregate, whose own message is empty',
      new AggregateError([withCode('::1', 'ECONNREFUSED'), withCode('127.0.0.1', 'ECONNREFUSED')]),
      'AggregateError: Error ECONNREFUSED: ::1, Error ECONNREFUSED: 127.0.0.1',
    ],
    [
      'what a node of a Redis Cluster replied',
      Object.assign(new Error('Failed to refresh slots cache.'), { lastNodeError: new Error('WRONGPASS no') }),
      'Error: Failed to refresh slots cache. <- Error: WRONGPASS no',
    ],
    ['what is no error as text', 'just text', 'just text'],
    ['a rejection without a reason', undefined, 'undefined'],
  ];
  for (const [title, error, text] of described) {
    it(`describes ${title}`, () => {
      expect(describeError(error)).to.equal(text);
    });
  }
});

describe('createLogger', () => {
  /** The lines of a logger whose console is replaced. */
  function logged(level: string, log: (logger: ReturnType<typeof createLogger>) => void): Record<string, unknown>[] {
    const logger = createLogger({ level, role: 'api' });
    const stream = new PassThrough();
    logger.clear().add(new transports.Stream({ stream, eol: '\n' }));
    log(logger);
    const text = String(stream.read() ?? '');
    return text
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  }

  it('writes one JSON line per event with its fields, the time and the role', () => {
    const [line, ...others] = logged('info', (logger) => logger.info('working', { concurrency: 4 }));
    expect(others).to.have.lengthOf(0);
    expect(line).to.include({ level: 'info', message: 'working', concurrency: 4, role: 'api' });
    expect(line!['timestamp']).to.match(/^\d{4}-\d\d-\d\dT.*Z$/);
  });

  it('writes an error given as cause in words', () => {
    const [line] = logged('info', (logger) => logger.warn('refused', { cause: new TypeError('why') }));
    expect(line!['cause']).to.equal('TypeError: why');
  });

  it('leaves out what is below its level', () => {
    const lines = logged('warn', (logger) => logger.info('working').warn('refused'));
    expect(lines.map(({ message }) => message)).to.deep.equal(['refused']);
  });
});
