import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expectToSurviveKill } from '../support/killed-action.ts';

const SCRIPT = fileURLToPath(new URL('../../src/commands/dead-letters.ts', import.meta.url));

describe('an action of npm run dead-letters whose worker is killed half way', function () {
  this.timeout(90_000);

  it('is carried out by another worker, each letter once', async () => {
    await expectToSurviveKill({
      letters: 3_000,
      perSecond: 1_000,
      patienceMs: 40_000,
      async start({ databaseUrl, redisUrl }) {
        const args = [
          'retry',
          '--reason-code',
          'rejected',
          '--per-second',
          '1000',
          '--reason',
          'the gateway is repaired',
        ];
        const env = { DATABASE_URL: databaseUrl, REDIS_URL: redisUrl, PATH: process.env['PATH'] };
        const child = spawn(process.execPath, [SCRIPT, ...args], { env, stdio: ['ignore', 'ignore', 'inherit'] });
        const [code] = await once(child, 'exit');
        if (code !== 0) throw new Error(`the command exited with ${code}`);
      },
    });
  });
});
