import { expect } from 'chai';
import { shortData } from '../../../src/queue/short-data.ts';

const ID = '4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3';

describe('shortData', () => {
  it('keeps a short, shallow payload as it is', () => {
    expect(shortData(`{"correlationId":"${ID}","amount":19.90}`)).to.equal(undefined);
    expect(shortData('[1]')).to.equal(undefined);
    expect(shortData(undefined)).to.equal(undefined);
  });

  it('keeps the beginning of a long payload, with its id and amount beside it', () => {
    const payload = `{"correlationId":"${ID}","amount":19.90,"note":"${'x'.repeat(60_000)}"}`;
    expect(JSON.parse(shortData(payload)!)).to.deep.equal({
      correlationId: ID,
      amount: 19.9,
      payload: payload.slice(0, 2048),
      payloadBytes: payload.length,
    });
  });

  it('keeps a deeply nested payload as text', () => {
    for (const deep of ['['.repeat(32_000) + ']'.repeat(32_000), `{"a":${'['.repeat(500)}${']'.repeat(500)}}`]) {
      const kept = JSON.parse(shortData(deep)!);
      expect(kept).to.deep.equal({ payload: deep.slice(0, 2048), payloadBytes: deep.length });
    }
  });

  it('never turns an invalid payload into a payment', () => {
    const filler = `"note":"${'x'.repeat(3_000)}"`;
    for (const [payload, expected] of [
      [`{"correlationId":["${ID}"],"amount":{"value":1},${filler}}`, {}],
      [`{"correlationId":"${ID}","amount":"19.90",${filler}}`, { correlationId: ID, amount: '19.90' }],
      [`{"correlationId":"${'y'.repeat(200)}","amount":1,${filler}}`, { amount: 1 }],
      [`[{"correlationId":"${ID}","amount":1,${filler}}]`, {}],
    ] as const) {
      const { payload: _text, payloadBytes: _bytes, ...scalars } = JSON.parse(shortData(payload)!);
      expect(scalars).to.deep.equal(expected);
    }
  });

  it('cuts at a whole character', () => {
    for (const character of ['\u00e9', '\u{1f4b8}']) {
      const { payload } = JSON.parse(shortData(JSON.stringify(`x${character.repeat(2_000)}`))!);
      expect(payload).to.match(new RegExp(`^"x${character}+$`, 'u'));
    }
  });

  it('keeps the beginning of a text that is not JSON', () => {
    expect(JSON.parse(shortData('{'.repeat(200))!)).to.deep.equal({ payload: '{'.repeat(200), payloadBytes: 200 });
  });
});
