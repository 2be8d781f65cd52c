import { expect } from 'chai';
import { wordFaults } from '../../../dev/lint-words.ts';

const found = (text: string) => wordFaults('src/a.ts', text);

describe('the list of phrases to avoid', () => {
  it('finds a phrase in a comment and says what to write instead', () => {
    expect(found('const a = 1;\n// Redis is away.\n')).to.deep.equal([
      'src/a.ts:2 says "is away". Instead: "is down", "is unreachable"',
    ]);
  });

  it('finds phrases in strings, Lua, YAML and Markdown', () => {
    expect(found("logger.warn('the connection is gone')")).to.have.lengthOf(1);
    expect(found('-- The script tells of every job.')).to.have.lengthOf(1);
    expect(found('# Nothing is done for want of room.')).to.have.lengthOf(1);
    expect(found('> The connection is given up.')).to.have.lengthOf(1);
  });

  it('finds a phrase that goes on in the next line', () => {
    for (const text of ['/**\n * It is\n * to be asked.', '// It is\n  // to be asked.', '# It is\n# to be asked.']) {
      expect(found(text), text).to.have.lengthOf(1);
    }
    expect(found('-- The lock is\n-- gone.')[0]).to.equal(
      'src/a.ts:1 says "is gone". Instead: "is down", "is closed", "has exited", "was removed"',
    );
  });

  it('finds a phrase at the start of a sentence, and a name in code', () => {
    expect(found('// Whoever calls it. Those who wait.')).to.have.lengthOf(2);
    expect(found('recorder.giveUp();')).to.have.lengthOf(1);
  });

  it('leaves alone what only looks similar', () => {
    expect(found('// The worker waits. To be safe, it checks a long-gone key, right away.')).to.deep.equal([]);
    expect(found('// It is\n\n// to be continued.')).to.deep.equal([]);
  });
});
