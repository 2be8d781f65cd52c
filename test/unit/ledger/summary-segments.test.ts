import { expect } from 'chai';
import { segmentsOf } from '../../../src/ledger/summary-segments.ts';

const at = (text: string) => new Date(`2026-01-01T${text}Z`);
const shown = (from?: Date, to?: Date) =>
  segmentsOf({ from, to }).map(({ widthSeconds, fromMs, toMs }) => {
    const show = (ms: number) => (Number.isFinite(ms) ? new Date(ms).toISOString().slice(11, 23) : String(ms));
    return `${widthSeconds} ${show(fromMs)} ${show(toMs)}`;
  });

describe('segmentsOf', () => {
  it('reads payments for what lies within a second', () => {
    expect(shown(at('10:00:00.100'), at('10:00:00.900'))).to.deep.equal(['0 10:00:00.100 10:00:00.901']);
  });

  it('includes the millisecond of the upper end', () => {
    expect(shown(at('10:00:00.000'), at('10:00:00.999'))).to.deep.equal(['1 10:00:00.000 10:00:01.000']);
    expect(shown(at('10:00:00.000'), at('10:00:01.000'))).to.deep.equal([
      '0 10:00:01.000 10:00:01.001',
      '1 10:00:00.000 10:00:01.000',
    ]);
  });

  it('uses the widest totals in the middle and narrower ones towards the ends', () => {
    expect(shown(at('09:58:58.500'), at('12:01:01.499'))).to.deep.equal([
      '0 09:58:58.500 09:58:59.000',
      '0 12:01:01.000 12:01:01.500',
      '1 09:58:59.000 09:59:00.000',
      '1 12:01:00.000 12:01:01.000',
      '60 09:59:00.000 10:00:00.000',
      '60 12:00:00.000 12:01:00.000',
      '3600 10:00:00.000 12:00:00.000',
    ]);
  });

  it('reads nothing but hours for everything', () => {
    expect(shown()).to.deep.equal(['3600 -Infinity Infinity']);
  });

  it('leaves an end open', () => {
    expect(shown(at('10:59:59.000'))).to.deep.equal(['1 10:59:59.000 11:00:00.000', '3600 11:00:00.000 Infinity']);
    expect(shown(undefined, at('00:00:00.000'))).to.deep.equal([
      '0 00:00:00.000 00:00:00.001',
      '3600 -Infinity 00:00:00.000',
    ]);
  });
});
