import { expect } from 'chai';
import { isUnavailable } from '../../../src/ledger/db.ts';

const withCode = (code: string) => Object.assign(new Error('it failed'), { code });

describe('isUnavailable', () => {
  const transient: [code: string, meaning: string][] = [
    ['08000', 'a broken connection'],
    ['08006', 'a failed connection'],
    ['08P01', 'a violated protocol'],
    ['25006', 'a read-only replica'],
    ['28000', 'a login refused'],
    ['28P01', 'a wrong password'],
    ['3D000', 'a database that is not there yet'],
    ['40001', 'a serialization failure'],
    ['40P01', 'a deadlock'],
    ['42P01', 'a table that is not there yet'],
    ['42883', 'a function that is not there yet'],
    ['53100', 'a full disk'],
    ['53300', 'too many connections'],
    ['55P03', 'a lock that is not to be had'],
    ['57014', 'a cancelled statement'],
    ['57P01', 'an administrator ending the server'],
    ['57P03', 'a server that is starting'],
    ['58030', 'a disk error'],
    ['ECONNREFUSED', 'a refused connection'],
    ['ECONNRESET', 'a reset'],
    ['ETIMEDOUT', 'a time-out'],
    ['EPIPE', 'a broken pipe, whose code has five letters'],
    ['EPERM', 'a system error, whose code has five letters'],
    ['42501', 'a right that is missing'],
    ['55000', 'an object in the wrong state'],
  ];
  for (const [code, meaning] of transient) {
    it(`is true for ${code}, ${meaning}`, () => {
      expect(isUnavailable(withCode(code))).to.equal(true);
    });
  }

  const wordless: Error[] = [
    new Error('Connection terminated unexpectedly'),
    new Error('timeout exceeded when trying to connect'),
    Object.assign(new Error('Defined query timeout of 2000ms exceeded'), { name: 'KnexTimeoutError' }),
    Object.assign(new Error('Knex: Timeout acquiring a connection'), { name: 'KnexTimeoutError' }),
    new AggregateError([withCode('ECONNREFUSED')]),
  ];
  for (const error of wordless) {
    it(`is true for ${error.name} "${error.message}", which has no code`, () => {
      expect(isUnavailable(error)).to.equal(true);
    });
  }

  const permanent: [code: string, meaning: string][] = [
    ['22001', 'a text too long'],
    ['22003', 'a number out of range'],
    ['22008', 'a time out of range'],
    ['22P02', 'a text that is no UUID'],
    ['23502', 'a null'],
    ['23505', 'a duplicate'],
    ['23514', 'a check that failed'],
    ['25001', 'a transaction already open'],
    ['3F000', 'a schema that is not there'],
    ['42601', 'a syntax error'],
    ['42703', 'a column that is not there'],
    ['P0001', 'an exception raised by a function'],
    ['XX000', 'an internal error'],
  ];
  for (const [code, meaning] of permanent) {
    it(`is false for ${code}, ${meaning}`, () => {
      expect(isUnavailable(withCode(code))).to.equal(false);
    });
  }

  for (const error of [new TypeError('x is not a function'), new RangeError('Invalid time value'), 'text', undefined]) {
    it(`is false for ${error instanceof Error ? error.name : error}`, () => {
      expect(isUnavailable(error)).to.equal(false);
    });
  }
});
