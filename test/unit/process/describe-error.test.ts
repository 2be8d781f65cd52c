import { expect } from 'chai';
import { describeError } from '../../../src/process/describe-error.ts';

describe('describeError', () => {
  const withCode = (message: string, code: unknown) => Object.assign(new Error(message), { code });

  const described: [title: string, error: unknown, text: string][] = [
    ['an error by name and message', new TypeError('no such thing'), 'TypeError: no such thing'],
    ['a code between name and message', withCode('refused', 'ECONNREFUSED'), 'Error ECONNREFUSED: refused'],
    ['a code that is no text is left out', withCode('aborted', 23), 'Error: aborted'],
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
    [
      'no arguments of a Redis command, which may be a password',
      new Error("ERR unknown command 'AUTH', with args beginning with: 'default' 's3cret'"),
      "Error: ERR unknown command 'AUTH'",
    ],
    ['a value that is no error', 'just text', 'just text'],
    ['a rejection without a reason', undefined, 'undefined'],
  ];
  it('names an error, its code and its causes in one line', () => {
    for (const [title, error, text] of described) expect(describeError(error), title).to.equal(text);
  });
});
