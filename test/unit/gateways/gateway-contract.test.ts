import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { VERDICTS } from '../../../src/gateways/classify-attempt.ts';

const PAGE = readFileSync(new URL('../../../docs/gateway-contract.md', import.meta.url), 'utf8');

/** The cells of the table between two comments of this name, without its head. */
function tableOf(name: string): string[][] {
  const [, table] = new RegExp(`<!-- ${name} -->\n([^]*?)<!-- /${name} -->`).exec(PAGE) ?? [];
  const rows = table?.trim().split('\n').slice(2) ?? [];
  return rows
    .map((row) => row.split('|').map((cell) => cell.trim().replace(/^`(.*)`$/, '$1')))
    .map((row) => row.slice(1, -1));
}

describe('docs/gateway-contract.md', () => {
  it('has the same table of verdicts as the code, row by row', () => {
    expect(tableOf('verdicts')).to.deep.equal(VERDICTS.map(({ response, verdict }) => [response, verdict]));
  });

  it('explains every verdict, and nothing else', () => {
    const verdicts = new Set(VERDICTS.map(({ verdict }): string => verdict));
    expect(tableOf('meanings').map(([verdict]) => verdict)).to.deep.equal([...verdicts]);
    expect(tableOf('meanings').every(([, meaning]) => meaning !== undefined && meaning !== '')).to.equal(true);
  });
});
