import { readFileSync } from 'node:fs';
import { parse } from 'yaml';

/** What is in docker/observability, for its tests. */
const DIRECTORY = new URL('../../docker/observability/', import.meta.url);

export const RULES_TESTS = ['rules.test.yml', 'rules.reconcile.test.yml'] as const;

export interface Alert {
  readonly alert: string;
  readonly expr: string;
  readonly for: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<'summary' | 'description' | 'runbook_url', string>>;
}

export interface RecordingRule {
  readonly record: string;
  readonly expr: string;
}

export interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly description?: string;
  readonly gridPos: { readonly h: number; readonly w: number; readonly x: number; readonly y: number };
  readonly targets?: readonly { readonly expr: string }[];
}

export interface Dashboard {
  readonly id?: number | null;
  readonly schemaVersion: number;
  readonly templating: { readonly list: readonly { readonly name: string; readonly type: string }[] };
  readonly panels: readonly Panel[];
}

export function observabilityFile(name: string): string {
  return readFileSync(new URL(name, DIRECTORY), 'utf8');
}

export function readRules(): { readonly alerts: readonly Alert[]; readonly recordings: readonly RecordingRule[] } {
  const { groups } = parse(observabilityFile('rules.yml')) as { groups: { rules: (Alert | RecordingRule)[] }[] };
  const rules = groups.flatMap((group) => group.rules);
  return {
    alerts: rules.filter((rule) => 'alert' in rule),
    recordings: rules.filter((rule) => 'record' in rule),
  };
}

export function readDashboard(): Dashboard {
  return JSON.parse(observabilityFile('grafana/dashboards/payrelay.json'));
}
