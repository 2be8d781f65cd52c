import { expect } from 'chai';
import {
  amountTextOf,
  correlationIdOf,
  MAX_AMOUNT_CENTS,
  parseAmountCents,
  parseCorrelationId,
  parsePayment,
} from '../../src/payment.ts';

const ID = '4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3';

describe('parseCorrelationId', () => {
  it('returns a UUID in lower case unchanged', () => {
    expect(parseCorrelationId(ID)).to.equal(ID);
  });

  it('converts a UUID in upper case to lower case', () => {
    expect(parseCorrelationId(ID.toUpperCase())).to.equal(ID);
  });

  const invalid: unknown[] = [
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
  it('does not accept anything else', () => {
    for (const value of invalid) expect(parseCorrelationId(value), JSON.stringify(value)).to.equal(undefined);
  });
});

describe('parseAmountCents', () => {
  const valid: [amount: number, cents: number][] = [
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
    // Results of clients that calculate with doubles.
    [0.1 + 0.2, 30],
    [1 + 0.14, 114],
    [59.699999999999996, 5970],
    [0.3 - 0.2, 10],
    [19.9 * 3, 5970],
    [10_000_000.000_01, 1_000_000_000],
  ];
  it('reads amounts with at most two decimals, apart from the noise of doubles', () => {
    for (const [amount, cents] of valid) expect(parseAmountCents(amount), String(amount)).to.equal(cents);
  });

  it('reads every cent up to 100.00 exactly', () => {
    for (let cents = 1; cents <= 10_000; cents += 1) {
      const text = `${Math.floor(cents / 100)}.${String(cents % 100).padStart(2, '0')}`;
      expect(parseAmountCents(Number(text)), text).to.equal(cents);
    }
  });

  it('reads every cent near the largest amount, where doubles are nearly a cent apart', () => {
    for (let cents = MAX_AMOUNT_CENTS - 10_000; cents <= MAX_AMOUNT_CENTS; cents += 1) {
      expect(parseAmountCents(cents / 100), String(cents)).to.equal(cents);
    }
  });

  it('reads the sums of up to a thousand items', () => {
    let amount = 0;
    for (let cents = 3; cents <= 3000; cents += 3) {
      amount += 0.03;
      expect(parseAmountCents(amount), String(amount)).to.equal(cents);
    }
  });

  const invalid: unknown[] = [
    0,
    -0,
    -1,
    -0.01,
    1.0000001,
    4_999_999.996,
    10_000_000.005,
    10_000_000.001,
    45_035_996_273_704.945,
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
  it('does not accept anything else', () => {
    for (const amount of invalid) {
      const title = typeof amount === 'number' ? String(amount) : JSON.stringify(amount);
      expect(parseAmountCents(amount), title).to.equal(undefined);
    }
  });
});

describe('correlationIdOf', () => {
  it('reads the id of a payload, whatever the rest is', () => {
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

  /** What is said of an amount; undefined when it is taken. */
  function amountFault(amount: unknown): string | undefined {
    const parsed = parsePayment({ correlationId: ID, amount });
    return 'faults' in parsed ? parsed.faults.map(({ message }) => message).join() : undefined;
  }

  const said: [amount: unknown, message: string][] = [
    [undefined, 'is missing'],
    [null, 'must be a number, not null'],
    [true, 'must be a number, not true'],
    [[19.9], 'must be a number, not an array'],
    [{ value: 19.9 }, 'must be a number, not an object'],
    ['19.90', 'must be a number, not the string "19.90"'],
    ['"\n\u0000', 'must be a number, not the string "\\"\\n\\u0000"'],
    [0, 'must be more than 0 (got 0)'],
    [-5.5, 'must be more than 0 (got -5.5)'],
    [1.005, 'must have at most 2 decimals (got 1.005)'],
    [0.001, 'must have at most 2 decimals (got 0.001)'],
    [1e300, 'must not be above 45035996273704.96 (got 1e+300)'],
    // JSON.parse makes it of 1e999.
    [Number.POSITIVE_INFINITY, 'must not be above 45035996273704.96 (got Infinity)'],
    [45_035_996_273_704.97, 'must not be above 45035996273704.96 (got 45035996273704.97)'],
  ];
  it('names the fault of an amount', () => {
    for (const [amount, message] of said) expect(amountFault(amount), message).to.equal(message);
  });

  it('quotes only the beginning of a long string, in whole characters', () => {
    expect(amountFault('9'.repeat(60_000))).to.equal(
      `must be a number, not the string "${'9'.repeat(40)}"… (60000 characters)`,
    );
    expect(amountFault(`${'9'.repeat(39)}\u{1F4B6}`.repeat(2))).to.equal(
      `must be a number, not the string "${'9'.repeat(39)}"… (82 characters)`,
    );
  });

  it('names the fault of an id', () => {
    const fault = (payload: object) => {
      const parsed = parsePayment({ ...payload, amount: 1 });
      return 'faults' in parsed ? parsed.faults : [];
    };
    expect(fault({})).to.deep.equal([{ param: 'correlationId', message: 'is missing' }]);
    expect(fault({ correlationId: 7 })).to.deep.equal([{ param: 'correlationId', message: 'must be a UUID, not 7' }]);
    expect(fault({ correlationId: 'x' })).to.deep.equal([
      { param: 'correlationId', message: 'must be a UUID, not the string "x"' },
    ]);
  });
});

describe('amountTextOf', () => {
  it('returns a number or a text unchanged, and undefined for anything else', () => {
    expect(amountTextOf({ amount: 19.9 })).to.equal('19.9');
    expect(amountTextOf({ amount: '19,90' })).to.equal('19,90');
    for (const payload of [{ amount: { value: 1 } }, { amount: null }, {}, [1], 'x', null]) {
      expect(amountTextOf(payload)).to.equal(undefined);
    }
  });
});
