import { appRoutes } from '@bull-board/api/dist/routes.js';
import { expect } from 'chai';
import { loadConfig } from '../../../src/config.ts';
import type { AppDeps } from '../../../src/http/app.ts';
import { DASHBOARD_CHANGES } from '../../../src/http/operator/dashboard-changes.ts';
import type { OperatorDeps } from '../../../src/http/operator/routes.ts';
import { routesOf } from '../../support/api-document.ts';
import { recordingLogger } from '../../support/logger.ts';

/** Making routes asks nothing of what they stand on. */
function routes(env: Record<string, string>) {
  const { http } = loadConfig({ DATABASE_URL: 'postgres://localhost/payrelay', ...env });
  return routesOf({ config: http, logger: recordingLogger().logger } as unknown as AppDeps & OperatorDeps);
}

const OPEN = { ALLOW_PURGE: 'true', DASHBOARD_USER: 'admin', DASHBOARD_PASSWORD: 'secret' };

describe('routes', () => {
  it('have neither purge nor dashboard by default', () => {
    expect(routes({}).map(({ method, path }) => `${method} ${path}`)).to.deep.equal([
      'POST /payments',
      'GET /payments/:correlationId',
      'GET /payments-summary',
      'GET /health',
      'GET /health/live',
      'GET /health/ready',
      'GET /metrics',
      'GET /openapi.json',
      'GET /docs{/*file}',
    ]);
  });

  it('say what each change is', () => {
    for (const { path, method, action, changesState } of routes(OPEN)) {
      expect(changesState ?? false, path).to.equal(method !== 'GET');
      expect(action !== undefined, path).to.equal(changesState ?? false);
    }
  });

  it('are all for the operator below the dashboard', () => {
    const own = routes(OPEN).filter(({ path }) => path.startsWith('/admin/'));
    expect(own.every(({ role }) => role === 'operator')).to.equal(true);
    const board = own.filter(({ path }) => path.startsWith('/admin/queues'));
    expect(board).to.have.length.above(8);
    expect(board.every(({ mount }) => mount === '/admin/queues')).to.equal(true);
  });

  it('accept a change from their own pages only, but for POST /payments', () => {
    for (const { path, changesState, from } of routes(OPEN)) {
      if (changesState) expect(from, path).to.equal(path === '/payments' ? undefined : 'own_pages');
    }
  });

  it('name changes as bull-board does, so that bull-board keeps its route for each', () => {
    const known = appRoutes.api.map(({ method, route }) => `${String(method).toUpperCase()} ${route}`);
    for (const { method, path } of DASHBOARD_CHANGES) {
      expect(known).to.include(`${method} ${path.replace('/retry/failed', '/retry/:queueStatus')}`);
    }
  });
});
