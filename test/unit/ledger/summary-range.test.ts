import { parse } from 'node:querystring';
import { expect } from 'chai';
import { InvalidRequestError } from '../../../src/errors.ts';
import { parseRange } from '../../../src/ledger/summary-range.ts';
import { atTestEnd } from '../../support/cleanup.ts';

const NOT_ISO = 'must be an ISO 8601 date or date-time';

/** Parses a query string as the app does. */
const range = (query: string, rule: 'required' | 'optional' = 'required') => parseRange(parse(query), rule);

/** The parsed `from`, or undefined when it is not valid. */
function instant(from: string): string | undefined {
  try {
    return parseRange({ from }, 'optional').from?.toISOString();
  } catch (error) {
    if (error instanceof InvalidRequestError) return undefined;
    throw error;
  }
}

function faultsOf(query: string, rule: 'required' | 'optional' = 'required') {
  try {
    range(query, rule);
    return [];
  } catch (error) {
    if (error instanceof InvalidRequestError) return error.details['errors'];
    throw error;
  }
}

describe('parseRange', () => {
  const read: [text: string, instant: string][] = [
    ['2025-07-15', '2025-07-15T00:00:00.000Z'],
    ['2025-07-15T12:34', '2025-07-15T12:34:00.000Z'],
    ['2025-07-15T12:34:56', '2025-07-15T12:34:56.000Z'],
    ['2025-07-15T12:34:56.7', '2025-07-15T12:34:56.700Z'],
    ['2025-07-15T12:34:56.78', '2025-07-15T12:34:56.780Z'],
    ['2025-07-15T12:34:56.789', '2025-07-15T12:34:56.789Z'],
    ['2025-07-15T12:34:56.789000Z', '2025-07-15T12:34:56.789Z'],
    ['2025-07-15T12:34:56,789Z', '2025-07-15T12:34:56.789Z'],
    ['2025-07-15T12:34:56Z', '2025-07-15T12:34:56.000Z'],
    ['2025-07-15t12:34:56z', '2025-07-15T12:34:56.000Z'],
    ['2025-07-15T12:34Z', '2025-07-15T12:34:00.000Z'],
    ['2025-07-15T12:34:56.789+03:00', '2025-07-15T09:34:56.789Z'],
    ['2025-07-15T12:34:56+0300', '2025-07-15T09:34:56.000Z'],
    ['2025-07-15T12:34:56+03', '2025-07-15T09:34:56.000Z'],
    ['2025-07-15T12:34:56-03:30', '2025-07-15T16:04:56.000Z'],
    ['2025-07-15T12:34:56-03', '2025-07-15T15:34:56.000Z'],
    ['2025-07-15T12:34:56 03:00', '2025-07-15T09:34:56.000Z'],
    ['2025-07-15T12:34:56+00:00', '2025-07-15T12:34:56.000Z'],
    ['2025-07-15T00:30:00+05:00', '2025-07-14T19:30:00.000Z'],
    ['2025-12-31T23:30:00-01:00', '2026-01-01T00:30:00.000Z'],
    ['2025-07-15T24:00', '2025-07-16T00:00:00.000Z'],
    ['2025-07-15T24:00:00.000Z', '2025-07-16T00:00:00.000Z'],
    ['2025-07-15T00:00', '2025-07-15T00:00:00.000Z'],
    ['2025-07-15T23:59:59.999Z', '2025-07-15T23:59:59.999Z'],
    ['2024-02-29', '2024-02-29T00:00:00.000Z'],
    ['2000-02-29', '2000-02-29T00:00:00.000Z'],
    ['1970-01-01', '1970-01-01T00:00:00.000Z'],
  ];
  it('reads dates and date-times of ISO 8601', () => {
    for (const [text, expected] of read) expect(instant(text), text).to.equal(expected);
  });

  const invalid: string[] = [
    'yesterday',
    '1752580800000',
    '2025',
    '2025-07',
    '20250715',
    '2025-7-15',
    '15-07-2025',
    '2025/07/15',
    '2025-07-15 12:34:56',
    '2025-07-15T',
    '2025-07-15T12',
    '2025-07-15T12:3',
    '2025-07-15T12:34:5',
    '2025-07-15T12:34:56.',
    '2025-07-15T12:34.5',
    '2025-07-15T123456',
    '2025-07-15Z',
    '2025-07-15+03:00',
    '2025-00-15',
    '2025-13-15',
    '2025-07-00',
    '2025-07-32',
    '2025-02-29',
    '2025-02-30',
    '2025-04-31',
    '2025-06-31T12:00:00Z',
    '1900-02-29',
    '2025-07-15T24:00:01',
    '2025-07-15T24:01',
    '2025-07-15T25:00',
    '2025-07-15T12:60',
    '2025-07-15T12:34:60',
    '2025-07-15T12:34:56+24:00',
    '2025-07-15T12:34:56+03:60',
    '2025-07-15T12:34:56+3',
    '2025-07-15T12:34:56+030',
    '2025-07-15T12:34:56 ',
    ' 2025-07-15',
    '2025-07-15\n',
    '+002025-07-15',
    '-2025-07-15',
    '2025-W29-2',
    '2025-196',
    'Tue, 15 Jul 2025 12:34:56 GMT',
  ];
  it('does not accept any other text', () => {
    for (const text of invalid) expect(instant(text), JSON.stringify(text)).to.equal(undefined);
  });

  it('reads both bounds', () => {
    expect(range('from=2025-07-15&to=2025-07-16T12:00:00.5Z')).to.deep.equal({
      from: new Date('2025-07-15T00:00:00.000Z'),
      to: new Date('2025-07-16T12:00:00.500Z'),
    });
  });

  it('reads an offset in a query, with and without percent-encoding', () => {
    for (const query of ['from=2025-07-15T12:00:00%2B03:00', 'from=2025-07-15T12:00:00+03:00']) {
      expect(range(query, 'optional').from, query).to.deep.equal(new Date('2025-07-15T09:00:00.000Z'));
    }
  });

  it('reads a time without an offset as UTC, whatever the time zone of the machine', () => {
    const { TZ } = process.env;
    atTestEnd(() => {
      if (TZ === undefined) delete process.env['TZ'];
      else process.env['TZ'] = TZ;
    });
    process.env['TZ'] = 'America/Sao_Paulo';
    expect(new Date(2025, 6, 15).getTimezoneOffset()).to.equal(180);
    expect(instant('2025-07-15')).to.equal('2025-07-15T00:00:00.000Z');
    expect(instant('2025-07-15T12:34')).to.equal('2025-07-15T12:34:00.000Z');
  });

  /** The bounds that the ledger receives. */
  const asked = (query: string) => {
    const { from, to } = range(query, 'optional');
    return [from?.toISOString(), to?.toISOString()];
  };

  it('rounds a from between two milliseconds up and a to down, so that the range includes nothing outside it', () => {
    expect(asked('from=2025-07-15T12:34:56.789001Z&to=2025-07-15T12:34:57.7899999Z')).to.deep.equal([
      '2025-07-15T12:34:56.790Z',
      '2025-07-15T12:34:57.789Z',
    ]);
    expect(asked('from=2025-12-31T23:59:59.9990001Z')).to.deep.equal(['2026-01-01T00:00:00.000Z', undefined]);
    // Before 1970, too, up means later and down means earlier.
    expect(asked('from=1969-12-31T23:59:59.0001Z&to=1969-12-31T23:59:59.5009Z')).to.deep.equal([
      '1969-12-31T23:59:59.001Z',
      '1969-12-31T23:59:59.500Z',
    ]);
  });

  it('treats a range within one millisecond as empty', () => {
    for (const query of [
      'from=2025-07-15T12:00:00.0001Z&to=2025-07-15T12:00:00.0009Z',
      'from=2025-07-15T12:00:00.0001Z&to=2025-07-15T12:00:00.0001Z',
    ]) {
      const { from, to } = range(query);
      expect(from!.getTime() - to!.getTime(), query).to.equal(1);
    }
  });

  it('accepts a range of a single instant', () => {
    expect(faultsOf('from=2025-07-15&to=2025-07-15T00:00')).to.deep.equal([]);
  });

  it('compares instants, not texts', () => {
    expect(faultsOf('from=2025-07-15T12:00:00%2B03:00&to=2025-07-15T10:00:00Z')).to.deep.equal([]);
  });

  const faulty: [query: string, faults: { param: string; message: string }[]][] = [
    ['from=2025-07-16&to=2025-07-15', [{ param: 'from', message: 'must not be after to' }]],
    ['from=2025-07-15T00:00:00.001Z&to=2025-07-15', [{ param: 'from', message: 'must not be after to' }]],
    [
      'from=2025-07-15T00:00:00.00011Z&to=2025-07-15T00:00:00.0001Z',
      [{ param: 'from', message: 'must not be after to' }],
    ],
    ['from=x&to=2025-07-15', [{ param: 'from', message: NOT_ISO }]],
    ['from=2025-07-15&to=x', [{ param: 'to', message: NOT_ISO }]],
    ['from=2025-07-15&from=2025-07-16&to=2025-07-17', [{ param: 'from', message: NOT_ISO }]],
    [
      'from=x&to=2025-02-30',
      [
        { param: 'from', message: NOT_ISO },
        { param: 'to', message: NOT_ISO },
      ],
    ],
  ];
  it('names every fault of a query, whether or not bounds are required', () => {
    for (const [query, faults] of faulty) {
      expect(faultsOf(query, 'required'), query).to.deep.equal(faults);
      expect(faultsOf(query, 'optional'), query).to.deep.equal(faults);
    }
  });

  describe('with required bounds', () => {
    const missing: [query: string, faults: { param: string; message: string }[]][] = [
      ['to=2025-07-15', [{ param: 'from', message: 'is required' }]],
      ['from=2025-07-15', [{ param: 'to', message: 'is required' }]],
      ['from=&to=2025-07-15', [{ param: 'from', message: 'is required' }]],
      [
        '',
        [
          { param: 'from', message: 'is required' },
          { param: 'to', message: 'is required' },
        ],
      ],
      [
        'from=x',
        [
          { param: 'from', message: NOT_ISO },
          { param: 'to', message: 'is required' },
        ],
      ],
    ];
    it('names every bound that is missing', () => {
      for (const [query, faults] of missing) expect(faultsOf(query), query).to.deep.equal(faults);
    });
  });

  describe('with optional bounds', () => {
    const unbounded: [query: string, from: string | undefined, to: string | undefined][] = [
      ['', undefined, undefined],
      ['from=&to=', undefined, undefined],
      ['from=2025-07-15', '2025-07-15T00:00:00.000Z', undefined],
      ['to=2025-07-15', undefined, '2025-07-15T00:00:00.000Z'],
    ];
    it('has no end where the bound is missing', () => {
      for (const [query, from, to] of unbounded) {
        const read = range(query, 'optional');
        expect([read.from?.toISOString(), read.to?.toISOString()], query).to.deep.equal([from, to]);
      }
    });
  });
});
