import { expect } from 'chai';
import { parse } from 'yaml';
import { PROBLEM_CODES } from '../../src/telemetry/labels.ts';
import { observabilityFile, RULES_TESTS, readDashboard, readRules } from '../support/observability.ts';

describe('the alerts', () => {
  const { alerts, recordings } = readRules();

  it('have a severity, a time and texts', () => {
    expect(alerts).to.have.length.above(15);
    for (const { alert, for: time, labels, annotations } of alerts) {
      expect(alert).to.match(/^Payrelay[A-Z]/);
      expect(time, alert).to.match(/^\d+[mh]$/);
      expect(labels, alert).to.have.all.keys('severity');
      expect(labels['severity'], alert).to.be.oneOf(['page', 'ticket']);
      expect(annotations, alert).to.have.all.keys('summary', 'description', 'runbook_url');
      for (const text of [annotations.summary, annotations.description]) expect(text, alert).to.match(/[^ ]\.$/);
    }
  });

  it('cover every problem of /health, and name no other', () => {
    const selectors = alerts.flatMap(({ expr }) => [...expr.matchAll(/code=~?"([^"]*)"/g)].map(([, codes]) => codes!));
    const named = selectors.flatMap((codes) => codes.split('|'));
    // Gauges serve these: with the size, the gateway and the number of workers the alerts say more.
    const byGauge = ['queue_full', 'primary_down', 'fallback_down'];
    expect([...named, ...byGauge]).to.have.members(PROBLEM_CODES);
  });

  it('use no != comparison, which is true for NaN', () => {
    const withoutSelectors = [...alerts, ...recordings].map(({ expr }) => expr.replace(/\{[^}]*\}/g, ''));
    expect(withoutSelectors.filter((expr) => expr.includes('!='))).to.deep.equal([]);
  });

  it('each fire in one test of the rules, and are silent in another or at another time', () => {
    interface RulesTest {
      alert_rule_test?: { alertname: string; exp_alerts?: unknown[] }[];
    }
    const tests = RULES_TESTS.flatMap((name) => parse(observabilityFile(name)).tests as RulesTest[]);
    const cases = tests.flatMap(({ alert_rule_test = [] }) => alert_rule_test);
    const namesOf = (fires: boolean) =>
      new Set(cases.filter(({ exp_alerts = [] }) => exp_alerts.length > 0 === fires).map(({ alertname }) => alertname));
    const names = alerts.map(({ alert }) => alert);
    expect([...namesOf(true)]).to.have.members(names);
    expect([...namesOf(false)]).to.have.members(names);
  });
});

describe('the Grafana dashboard', () => {
  const { id, schemaVersion, templating, panels } = readDashboard();

  it('is of no instance of Grafana: it has no id, and its data source is a variable', () => {
    expect(id ?? null).to.equal(null);
    expect(schemaVersion).to.be.within(36, 41);
    expect(templating.list.map(({ name, type }) => [name, type])).to.deep.equal([['datasource', 'datasource']]);
    const uids = [...observabilityFile('grafana/dashboards/payrelay.json').matchAll(/"uid": "([^"]*)"/g)];
    expect(new Set(uids.map(([, uid]) => uid))).to.deep.equal(new Set(['payrelay', '$' + '{datasource}']));
  });

  it('has panels with a text and an expression, side by side', () => {
    expect(new Set(panels.map((panel) => panel.id)).size).to.equal(panels.length);
    const taken = new Set<string>();
    for (const { title, type, description = '', targets = [], gridPos } of panels) {
      if (type !== 'row') {
        expect(description, title).to.match(/[^ ]\.$/);
        expect(targets, title).to.have.length.above(0);
      }
      expect(gridPos.x + gridPos.w, title).to.be.at.most(24);
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x += 1) {
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y += 1) {
          expect(taken.has(`${x} ${y}`), `${title} covers another panel`).to.equal(false);
          taken.add(`${x} ${y}`);
        }
      }
    }
  });
});
