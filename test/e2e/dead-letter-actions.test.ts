import { expectToSurviveKill, startByCommand } from '../support/killed-action.ts';

describe('an action of npm run dead-letters whose worker is killed half way', function () {
  this.timeout(90_000);

  it('is carried out by another worker, each letter once', async () => {
    await expectToSurviveKill({ letters: 3_000, perSecond: 1_000, patienceMs: 40_000, start: startByCommand });
  });
});
