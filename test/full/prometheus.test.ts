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

/** Two API nodes and a worker that have paid some payments. @returns what Prometheus scrapes, as `host:port` */
async function startRelay(): Promise<{ api: string[]; worker: string[] }> {
  const workerPort = await freePort();
  const stack = await startTestStack({ apis: 2, workers: 0, env: { METRICS_TOKEN: TOKEN, DURABILITY: 'disk' } });
  await stack.startWorker({ WORKER_PORT: String(workerPort) });
  await stack.postMany(20);
  await stack.settled();
  return { api: stack.apis.map(({ url }) => new URL(url!).host), worker: [`127.0.0.1:${workerPort}`] };
}

/** Prometheus with the files as shipped, but for the targets, the token's place and the time between two scrapes. */
async function startPrometheus(targets: { api: string[]; worker: string[] }) {
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

type Prometheus = Awaited<ReturnType<typeof startPrometheus>>;

/** Resolves when each target was scraped twice, and the rules were evaluated over it. */
async function scrapedTwice({ query, groups }: Prometheus, targets: number): Promise<void> {
  const scrapes = `sum_over_time(up{job=~"payrelay-.+"}[1m]) >= 2`;
  await eventually(async () => (await query(scrapes)).length === targets, PATIENCE_MS);
  const after = Date.now();
  const isEvaluated = async () => (await groups()).every(({ lastEvaluation }) => Date.parse(lastEvaluation) > after);
  await eventually(isEvaluated, PATIENCE_MS);
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

describe('a Prometheus that scrapes a running relay', function () {
  this.timeout(90_000);

  it('has a series for every expression of dashboard and rules, and no alert', async () => {
    const targets = await startRelay();
    const prometheus = await startPrometheus(targets);
    await scrapedTwice(prometheus, 3);
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
    for (const { where, expr } of [...shown, ...ruled]) {
      if ((await prometheus.query(expr)).length === 0) empty.push(`${where}: ${expr}`);
    }
    expect(empty).to.deep.equal([]);

    const firing: string[] = [];
    for (const { alert, expr } of alerts) {
      for (const { metric, value } of await prometheus.query(expr)) {
        firing.push(`${alert} ${JSON.stringify(metric)} ${value[1]}`);
      }
    }
    expect(firing).to.deep.equal([]);
  });

  it('counts each payment once, in the process that accepted or paid it', async () => {
    const prometheus = await startPrometheus(await startRelay());
    await scrapedTwice(prometheus, 3);
    const value = async (expr: string) => Number((await prometheus.query(expr))[0]?.value[1]);
    expect(await value('sum(payrelay_payments_accepted_total)')).to.equal(20);
    expect(await value('sum(payrelay_payments_paid_total{job="payrelay-worker"})')).to.equal(20);
    expect(await value('sum(payrelay_payments_paid_total)')).to.equal(20);
    expect(await value('max(payrelay_workers)')).to.equal(1);
    expect(await value('sum(relay:payrelay_queue_payments:max)')).to.equal(0);
  });
});
