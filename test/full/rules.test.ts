import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { RULES_TESTS } from '../support/observability.ts';

const DIRECTORY = fileURLToPath(new URL('../../docker/observability', import.meta.url));

/** @throws an Error with its output when it finds a fault */
function promtool(...args: string[]) {
  return promisify(execFile)('promtool', args, { cwd: DIRECTORY });
}

describe("Prometheus' files, checked by promtool", function () {
  this.timeout(60_000);

  it('have no fault in the configuration', async () => {
    // Otherwise it demands the file of the token, which the container writes.
    await promtool('check', 'config', '--syntax-only', 'prometheus.yml');
  });

  it('have no fault in the rules', async () => {
    await promtool('check', 'rules', '--lint-fatal', 'rules.yml');
  });

  it('fire each alert when they should, and not when they should not', async () => {
    await promtool('test', 'rules', ...RULES_TESTS);
  });
});
