import { expect } from 'chai';
import { loadConfig } from '../../../src/config.ts';
import type { AppDeps } from '../../../src/http/app.ts';
import { isAllowedChange } from '../../../src/http/operator/dashboard-changes.ts';
import { createRoutes } from '../../../src/http/routes.ts';
import { recordingLogger } from '../../support/logger.ts';

/** Making routes asks nothing of what they stand on. */
function routes(env: Record<string, string>) {
  const { http } = loadConfig({ DATABASE_URL: 'postgres://localhost/payrelay', ...env });
  return createRoutes({ config: http, logger: recordingLogger().logger } as unknown as AppDeps);
}

const OPEN = { ALLOW_PURGE: 'true', DASHBOARD_USER: 'admin', DASHBOARD_PASSWORD: 'secret' };

describe('routes', () => {
  it('have neither purge nor dashboard by default', () => {
    expect(routes({}).map(({ method, path }) => `${method} ${path}`)).to.deep.equal([
      'POST /payments',
      'GET /payments-summary',
      'GET /health',
      'GET /health/live',
      'GET /health/ready',
    ]);
  });

  it('say what each change is', () => {
    for (const { path, method, action, changesState } of routes(OPEN)) {
      expect(changesState ?? false, path).to.equal(method !== 'GET');
      expect(action !== undefined, path).to.equal(changesState ?? false);
    }
  });

  it('are all for the operator below the dashboard', () => {
    const board = routes(OPEN).filter(({ path }) => path.startsWith('/admin/'));
    expect(board).to.have.length.above(8);
    expect(board.every(({ role, mount }) => role === 'operator' && mount === '/admin/queues')).to.equal(true);
  });

  it('accept a change from their own pages only, but for POST /payments', () => {
    for (const { path, changesState, from } of routes(OPEN)) {
      if (changesState) expect(from, path).to.equal(path === '/payments' ? undefined : 'own_pages');
    }
  });
});

describe('isAllowedChange', () => {
  it('knows the changes of the table, for any queue and job', () => {
    expect(isAllowedChange('PUT', '/api/queues/pause')).to.equal(true);
    expect(isAllowedChange('PUT', '/api/queues/payments/resume')).to.equal(true);
    expect(isAllowedChange('PUT', '/api/queues/payments/42/promote')).to.equal(true);
  });

  it('takes no state of bull-board for a job', () => {
    expect(isAllowedChange('PUT', '/api/queues/payments/clean/retry')).to.equal(false);
    expect(isAllowedChange('PUT', '/api/queues/payments/clean/failed')).to.equal(false);
  });

  it('knows no other method', () => {
    expect(isAllowedChange('POST', '/api/queues/payments/pause')).to.equal(false);
  });
});
