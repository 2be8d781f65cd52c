import { expect } from 'chai';
import {
  correlationIdOf,
  MAX_AMOUNT_CENTS,
  parseAmountCents,
  parseCorrelationId,
  parsePayment,
} from '../../src/payment.ts';

const ID = '4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3';

describe('parseCorrelationId', () => {
  it('takes a UUID in lower case as it is', () => {
    expect(parseCorrelationId(ID)).to.equal(ID);
  });

  it('turns a UUID in upper case into its normal form', () => {
    expect(parseCorrelationId(ID.toUpperCase())).to.equal(ID);
  });

  const refused: unknown[] = [
    undefined,
    null,
    42,
    '',
    'x',
    [ID],
    ID.slice(1),
    `${ID}0`,
    ` ${ID}`,
    `${ID}\n`,
    ID.replaceAll('-', ''),
    `{${ID}}`,
    ID.replace('4', 'g'),
  ];
  for (const value of refused) {
    it(`refuses ${JSON.stringify(value)}`, () => {
      expect(parseCorrelationId(value)).to.equal(undefined);
    });
  }
});

describe('parseAmountCents', () => {
  const taken: [amount: number, cents: number][] = [
    [0.01, 1],
    [0.29, 29],
    [1, 100],
    [1.1, 110],
    [4.35, 435],
    [8.2, 820],
    [19.9, 1990],
    [1234.56, 123456],
    [999999999.99, 99999999999],
    [1e3, 100000],
    [MAX_AMOUNT_CENTS / 100, MAX_AMOUNT_CENTS],
  ];
  for (const [amount, cents] of taken) {
    it(`reads ${amount} as ${cents} cents`, () => {
      expect(parseAmountCents(amount)).to.equal(cents);
    });
  }

  it('reads every cent up to 100.00 exactly', () => {
    for (let cents = 1; cents <= 10_000; cents += 1) {
      const text = `${Math.floor(cents / 100)}.${String(cents % 100).padStart(2, '0')}`;
      expect(parseAmountCents(Number(text)), text).to.equal(cents);
    }
  });

  const refused: unknown[] = [
    0,
    -1,
    -0.01,
    0.001,
    0.005,
    0.009,
    1.005,
    19.999,
    19.901,
    1e-7,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    (MAX_AMOUNT_CENTS + 1) / 100,
    Number.MAX_SAFE_INTEGER,
    '19.90',
    null,
    undefined,
    true,
    [19.9],
    {},
  ];
  for (const amount of refused) {
    it(`refuses ${typeof amount === 'number' ? amount : JSON.stringify(amount)}`, () => {
      expect(parseAmountCents(amount)).to.equal(undefined);
    });
  }
});

describe('correlationIdOf', () => {
  it('reads the id of a payload whatever the rest of it is', () => {
    expect(correlationIdOf({ correlationId: ID.toUpperCase(), amount: 'free' })).to.equal(ID);
  });

  const without: unknown[] = [{}, { correlationId: 'x' }, { correlationId: 1 }, null, [], [ID], ID, 7, undefined];
  for (const payload of without) {
    it(`finds none in ${JSON.stringify(payload)}`, () => {
      expect(correlationIdOf(payload)).to.equal(undefined);
    });
  }
});

describe('parsePayment', () => {
  /** The parameters found at fault. */
  function faultyParams(payload: unknown): string[] {
    const parsed = parsePayment(payload);
    return 'faults' in parsed ? parsed.faults.map(({ param }) => param) : [];
  }

  it('takes a UUID and an amount, and leaves out what else there is', () => {
    expect(parsePayment({ correlationId: ID.toUpperCase(), amount: 19.9, note: 'x' })).to.deep.equal({
      payment: { correlationId: ID, amountCents: 1990 },
    });
  });

  const faulty: [payload: unknown, params: string[]][] = [
    [null, ['body']],
    [undefined, ['body']],
    [[], ['body']],
    ['payment', ['body']],
    [7, ['body']],
    [{}, ['correlationId', 'amount']],
    [{ correlationId: ID }, ['amount']],
    [{ amount: 1 }, ['correlationId']],
    [{ correlationId: 'x', amount: 1 }, ['correlationId']],
    [{ correlationId: ID, amount: 0 }, ['amount']],
    [{ correlationId: ID, amount: '1' }, ['amount']],
    [{ correlationId: 1, amount: 1.001 }, ['correlationId', 'amount']],
  ];
  for (const [payload, params] of faulty) {
    it(`finds fault with ${params.join(' and ')} in ${JSON.stringify(payload)}`, () => {
      expect(faultyParams(payload)).to.deep.equal(params);
    });
  }

  it('says what would be right', () => {
    expect(parsePayment({})).to.deep.equal({
      faults: [
        { param: 'correlationId', message: 'must be a UUID' },
        { param: 'amount', message: 'must be a positive number of at most 2 decimals, up to 45035996273704.96' },
      ],
    });
  });
});
