import { expectToSurviveKill, startByCommand } from '../support/killed-action.ts';

describe('an action over 50,000 dead letters whose worker is killed half way', function () {
  this.timeout(300_000);

  it('is carried out by another worker, each letter once', async () => {
    await expectToSurviveKill({ letters: 50_000, perSecond: 4_000, patienceMs: 250_000 });
  });

  it('is carried out by another worker when npm run dead-letters has started it', async () => {
    await expectToSurviveKill({ letters: 50_000, perSecond: 1_000, patienceMs: 250_000, start: startByCommand });
  });
});
