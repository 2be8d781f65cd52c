import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { parse, stringify } from 'yaml';
import { freePort } from '../../dev/local/ports.ts';
import { startProcess, temporaryDirectory } from '../../dev/local/processes.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { observabilityFile, readDashboard, readRules } from '../support/observability.ts';
import { eventually } from '../support/relay.ts';
import { PATIENCE_MS, startTestStack } from '../support/stack.ts';

const TOKEN = 'a-token-for-the-metrics';
const SCRAPE_SECONDS = 1;

interface Sample {
  readonly metric: Readonly<Record<string, string>>;
  readonly value: readonly [time: number, value: string];
}

interface Group {
  readonly name: string;
  readonly lastEvaluation: string;
}

interface Targets {
  /** Each as `host:port`. */
  readonly api: readonly string[];
  readonly worker: readonly string[];
}

/** Two API nodes and a worker that have paid a payment. */
async function startRelay() {
  const workerPort = await freePort();
  const stack = await startTestStack({ apis: 2, workers: 0, env: { METRICS_TOKEN: TOKEN, DURABILITY: 'disk' } });
  const worker = await stack.startWorker({ WORKER_PORT: String(workerPort) });
  const pay = async (count: number) => {
    await stack.postMany(count);
    await stack.settled();
  };
  // A rate shows payments only from a series' second value on, and some series begin with the first payment.
  await pay(1);
  const api = stack.apis.map(({ url }) => new URL(url!).host);
  return { targets: { api, worker: [`127.0.0.1:${workerPort}`] }, pay, worker };
}

/** Prometheus with the files as shipped, but for the targets, the token's place and the time between two scrapes. */
async function startPrometheus(targets: Targets) {
  const dir = temporaryDirectory('prometheus');
  const port = await freePort();
  const tokenFile = join(dir, 'metrics-token');
  const { global, scrape_configs, ...rest } = parse(observabilityFile('prometheus.yml'));
  const scrapes = scrape_configs.map(
    ({
      job_name,
      authorization,
      static_configs: _shipped,
      dns_sd_configs: _byName,
      ...other
    }: Record<string, never>) => {
      expect(authorization).to.have.all.keys('credentials_file');
      const job = job_name === 'payrelay-api' ? targets.api : targets.worker;
      return { job_name, ...other, authorization: { credentials_file: tokenFile }, static_configs: [{ targets: job }] };
    },
  );
  const time = { scrape_interval: `${SCRAPE_SECONDS}s`, evaluation_interval: `${SCRAPE_SECONDS}s` };
  writeFileSync(tokenFile, TOKEN);
  writeFileSync(join(dir, 'rules.yml'), observabilityFile('rules.yml'));
  writeFileSync(
    join(dir, 'prometheus.yml'),
    stringify({ ...rest, global: { ...global, ...time }, scrape_configs: scrapes }),
  );

  const { child, exited } = await startProcess({
    command: 'prometheus',
    args: [
      `--config.file=${join(dir, 'prometheus.yml')}`,
      `--storage.tsdb.path=${join(dir, 'data')}`,
      `--web.listen-address=127.0.0.1:${port}`,
    ],
    readyWhen: /Server is ready to receive web requests/,
  });
  atTestEnd(async () => {
    child.kill('SIGKILL');
    await exited;
  });

  async function ask<Data>(path: string, params: Readonly<Record<string, string>> = {}): Promise<Data> {
    const body = new URLSearchParams(params);
    const response = await fetch(`http://127.0.0.1:${port}/api/v1/${path}${body.size > 0 ? `?${body}` : ''}`);
    const { data, error } = (await response.json()) as { data: Data; error?: string };
    if (error !== undefined) throw new Error(error);
    return data;
  }
  return {
    /** @throws an Error when the expression cannot be read or evaluated */
    query: async (query: string) => (await ask<{ result: Sample[] }>('query', { query })).result,
    groups: async () => (await ask<{ groups: Group[] }>('rules')).groups,
  };
}

/** A running relay, and a Prometheus that has scraped each of its three processes. */
async function stage() {
  const { targets, pay, worker } = await startRelay();
  const { query, groups } = await startPrometheus(targets);

  /** Resolves when each process was scraped twice more, and the rules were evaluated after that. */
  async function scrapedTwice(): Promise<void> {
    const scrapes = async () =>
      (await query('sum_over_time(up{job=~"payrelay-.+"}[5m])')).map(({ value }) => +value[1]);
    await eventually(async () => (await scrapes()).length === 3, PATIENCE_MS);
    const least = Math.max(...(await scrapes())) + 2;
    await eventually(async () => (await scrapes()).every((count) => count >= least), PATIENCE_MS);
    const after = Date.now();
    const isEvaluated = async () => (await groups()).every(({ lastEvaluation }) => Date.parse(lastEvaluation) > after);
    await eventually(isEvaluated, PATIENCE_MS);
  }

  await scrapedTwice();
  return { query, scrapedTwice, pay, worker };
}

/** A false comparison drops its series. With `bool` it returns 0. Operators in selectors, `{a!="b"}`, are none. */
function withoutFilters(expr: string): string {
  return expr.replace(/\{[^}]*\}|[=!]=|[<>]=?/g, (part) => (part.startsWith('{') ? part : `${part} bool`));
}

/** As Grafana replaces them. */
function withoutVariables(expr: string): string {
  const plain = expr.replaceAll(/\$__(rate_interval|range)\b/g, '1m');
  expect(plain).not.to.include('$');
  return plain;
}

/** Names of the alerts whose expression is true now. */
async function trueAlerts(query: (expr: string) => Promise<Sample[]>): Promise<string[]> {
  const names: string[] = [];
  for (const { alert, expr } of readRules().alerts) if ((await query(expr)).length > 0) names.push(alert);
  return names;
}

describe('a Prometheus that scrapes a running relay', function () {
  this.timeout(90_000);

  it('has a value for every expression of dashboard and rules, and no alert', async () => {
    const { query, scrapedTwice, pay } = await stage();
    await pay(20);
    await scrapedTwice();
    const { alerts, recordings } = readRules();
    const shown = readDashboard().panels.flatMap(({ title, targets = [] }) =>
      targets.map(({ expr }) => ({ where: title, expr: withoutVariables(expr) })),
    );
    const ruled = [
      ...recordings.map(({ record, expr }) => ({ where: record, expr: withoutFilters(expr) })),
      ...alerts.map(({ alert, expr }) => ({ where: alert, expr: withoutFilters(expr) })),
    ];
    expect(shown).to.have.length.above(30);
    expect(ruled).to.have.length.above(20);
    const empty: string[] = [];
    const unknown: string[] = [];
    for (const { where, expr } of [...shown, ...ruled]) {
      const values = (await query(expr)).map(({ value }) => Number(value[1]));
      if (values.length === 0) empty.push(`${where}: ${expr}`);
      else if (values.every(Number.isNaN)) unknown.push(where);
    }
    expect(empty).to.deep.equal([]);
    expect(unknown, 'reconcile has not run here').to.have.members([
      'Differences that reconcile found',
      'Last run of reconcile',
    ]);
    expect(await trueAlerts(query)).to.deep.equal([]);
  });

  it('counts each payment once, and sees that its worker is killed', async () => {
    const { query, scrapedTwice, pay, worker } = await stage();
    await pay(20);
    await scrapedTwice();
    const value = async (expr: string) => Number((await query(expr))[0]?.value[1]);
    expect(await value('sum(payrelay_payments_accepted_total)')).to.equal(21);
    expect(await value('sum(payrelay_payments_paid_total)')).to.equal(21);
    expect(await value('max(payrelay_workers)')).to.equal(1);
    await worker.kill();
    const expected = ['PayrelayNoWorker', 'PayrelayTargetDown'];
    await eventually(async () => (await trueAlerts(query)).join() === expected.join(), PATIENCE_MS);
  });
});
