import { PassThrough } from 'node:stream';
import { expect } from 'chai';
import { transports } from 'winston';
import { createLogger } from '../../../src/process/logger.ts';

describe('createLogger', () => {
  /** The lines of a logger whose console is replaced. */
  function logged(level: string, log: (logger: ReturnType<typeof createLogger>) => void): Record<string, unknown>[] {
    const logger = createLogger({ level, role: 'api' });
    const stream = new PassThrough();
    logger.clear().add(new transports.Stream({ stream, eol: '\n' }));
    log(logger);
    const text = String(stream.read() ?? '');
    return text
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  }

  it('writes one JSON line per event with its fields, the time and the role', () => {
    const [line, ...others] = logged('info', (logger) => logger.info('working', { concurrency: 4 }));
    expect(others).to.have.lengthOf(0);
    expect(line).to.include({ level: 'info', message: 'working', concurrency: 4, role: 'api' });
    expect(line!['timestamp']).to.match(/^\d{4}-\d\d-\d\dT.*Z$/);
  });

  it('writes an error given as cause in words', () => {
    const [line] = logged('info', (logger) => logger.warn('refused', { cause: new TypeError('why') }));
    expect(line!['cause']).to.equal('TypeError: why');
  });

  it('leaves out what is below its level', () => {
    const lines = logged('warn', (logger) => logger.info('working').warn('refused'));
    expect(lines.map(({ message }) => message)).to.deep.equal(['refused']);
  });
});
