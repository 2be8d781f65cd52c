import { expect } from 'chai';
import { parsePaymentOnRecord } from '../../../src/gateways/on-record.ts';
import { atTestEnd } from '../../support/cleanup.ts';

const ID = '4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3';
const NOON = '2025-07-15T12:00:00.123Z';
const AT_NOON = { amountCents: 1990, requestedAt: new Date(NOON) };

const parse = (fields: unknown) => parsePaymentOnRecord(JSON.stringify(fields), ID);
const withTime = (requestedAt: unknown) => parse({ amount: 19.9, requestedAt });
const withAmount = (amount: unknown) => parse({ amount, requestedAt: NOON });

describe('parsePaymentOnRecord', () => {
  it('reads amount and time', () => {
    expect(parse({ correlationId: ID, amount: 19.9, requestedAt: NOON })).to.deep.equal(AT_NOON);
    expect(parse({ amount: 0.01, requestedAt: NOON })?.amountCents).to.equal(1);
  });

  it('reads keys in other spellings', () => {
    expect(parse({ CorrelationId: ID, Amount: 19.9, RequestedAt: NOON })).to.deep.equal(AT_NOON);
    expect(parse({ correlation_id: ID, amount: 19.9, requested_at: NOON })).to.deep.equal(AT_NOON);
    expect(parse({ 'correlation-id': ID, AMOUNT: 19.9, 'requested-at': NOON })).to.deep.equal(AT_NOON);
  });

  it('reads an amount that is a string', () => {
    for (const amount of ['19.9', '19.90', ' 19.90 ']) expect(withAmount(amount)).to.deep.equal(AT_NOON);
  });

  it('skips a byte-order mark', () => {
    const body = JSON.stringify({ amount: 19.9, requestedAt: NOON });
    expect(parsePaymentOnRecord(`\ufeff${body}`, ID)).to.deep.equal(AT_NOON);
  });

  it('reads times in other spellings', () => {
    const times = [
      '2025-07-15T12:00:00.123',
      '2025-07-15 12:00:00.123',
      '2025-07-15 12:00:00.123+00',
      '2025-07-15 12:00:00.123 Z',
      '2025-07-15t12:00:00.123z',
      '2025-07-15T12:00:00,123Z',
      '2025-07-15T09:00:00.123-03:00',
      '2025-07-15T14:00:00.123+0200',
      ' 2025-07-15T12:00:00.123Z ',
    ];
    for (const time of times) expect(withTime(time), time).to.deep.equal(AT_NOON);
  });

  it('cuts the digits of a time below milliseconds', () => {
    expect(withTime('2025-07-15T12:00:00.1239999Z')).to.deep.equal(AT_NOON);
  });

  it('takes a time without an offset as UTC, whatever the time zone of the machine', () => {
    const { TZ } = process.env;
    atTestEnd(() => {
      if (TZ === undefined) delete process.env['TZ'];
      else process.env['TZ'] = TZ;
    });
    process.env['TZ'] = 'America/Sao_Paulo';
    expect(new Date(NOON).getTimezoneOffset()).to.equal(180);
    expect(withTime('2025-07-15T12:00:00.123')).to.deep.equal(AT_NOON);
  });

  it('accepts the id in upper and lower case', () => {
    expect(parse({ correlationId: ID.toUpperCase(), amount: 19.9, requestedAt: NOON })).to.deep.equal(AT_NOON);
  });

  it('returns undefined for another payment', () => {
    for (const id of ['5a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3', '', null, 7, {}]) {
      expect(parse({ correlationId: id, amount: 19.9, requestedAt: NOON })).to.equal(undefined);
    }
  });

  it('returns undefined without a usable amount', () => {
    for (const amount of [undefined, null, 0, -1, 19.999, '', 'much', '1e3', '-5', '19,90', '0x10', true, [19.9]]) {
      expect(withAmount(amount), String(amount)).to.equal(undefined);
    }
  });

  it('returns undefined without a usable time', () => {
    const times = [undefined, null, 5, 1_700_000_000_000, '', '5', '2025', '2025-07-15', 'yesterday', 'soon'];
    for (const time of [...times, '2025-13-15T12:00:00Z', '2025-07-15T25:00:00Z', '2025-07-15T12:00:00+99:00']) {
      expect(withTime(time), String(time)).to.equal(undefined);
    }
  });

  it('returns undefined unless the body is a JSON object', () => {
    for (const body of ['', '<html>', 'null', '[]', '"text"', '5', '{}', '{"amount":19.9,"requestedAt":"2025']) {
      expect(parsePaymentOnRecord(body, ID), body).to.equal(undefined);
    }
  });
});
