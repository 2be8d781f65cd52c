import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { prometheusContentType } from 'prom-client';
import sinon from 'sinon';
import { events } from '../../../src/telemetry/events.ts';
import type { Heartbeat, WorkerVitals } from '../../../src/telemetry/heartbeat.ts';
import {
  BATCHES,
  DEAD_LETTER_REASONS,
  GATEWAYS,
  HOPS,
  NOT_ACCEPTED_REASONS,
  OUTCOMES,
  PROBLEM_CODES,
  QUEUE_STATES,
} from '../../../src/telemetry/labels.ts';
import type { RelayGauges } from '../../../src/telemetry/metrics.ts';
import { createTelemetry, type TelemetryPart } from '../../../src/telemetry/telemetry.ts';
import { atTestEnd } from '../../support/cleanup.ts';
import { labelsByName, metricNames, parseExposition } from '../../support/exposition.ts';

const GAUGES: RelayGauges = {
  queue: { waiting: 7, delayed: 2, in_flight: 3 },
  capacity: 50_000,
  oldestWaitingSeconds: 12.5,
  unresolved: { primary: { count: 4, oldestSeconds: 90 }, fallback: { count: 0, oldestSeconds: 0 } },
  circuitsOpen: { primary: 2, fallback: 0 },
  workers: 2,
  deadLetters: { invalid_payment: 5 },
  reconciliation: { at: new Date('2025-07-15T12:00:00.500Z'), differences: { primary: 1, fallback: 0 } },
  problems: ['primary_down'],
};

const VITALS: WorkerVitals = {
  workerId: 'w',
  concurrency: 16,
  inFlight: 5,
  gateways: {
    primary: { down: { code: 'http_502', detail: 'HTTP 502', since: '2025-07-15T12:00:00.000Z' }, waiting: 3 },
    fallback: { waiting: 0 },
  },
};

function setUp(role: Heartbeat['role'], part: TelemetryPart = {}) {
  const telemetry = createTelemetry({ role, version: '1.2.3' });
  atTestEnd(() => telemetry.close());
  telemetry.describe(part);
  return telemetry.metrics;
}

const api = (gauges: NonNullable<TelemetryPart['gauges']> = async () => GAUGES) => setUp('api', { gauges });

/** Series of closed labels, without the buckets of histograms. */
const COUNTED = [
  'payrelay_payments_accepted_total',
  ...NOT_ACCEPTED_REASONS.map((reason) => `payrelay_payments_not_accepted_total{reason="${reason}"}`),
  ...GATEWAYS.map((gateway) => `payrelay_payments_paid_total{gateway="${gateway}"}`),
  ...GATEWAYS.map((gateway) => `payrelay_amount_paid_cents_total{gateway="${gateway}"}`),
  ...GATEWAYS.flatMap((gateway) =>
    OUTCOMES.map((outcome) => `payrelay_attempts_total{gateway="${gateway}",outcome="${outcome}"}`),
  ),
  ...HOPS.flatMap((hop) => ['count', 'sum'].map((end) => `payrelay_hop_duration_seconds_${end}{hop="${hop}"}`)),
  ...HOPS.map((hop) => `payrelay_hop_duration_seconds_bucket{hop="${hop}",le="+Inf"}`),
  ...BATCHES.flatMap((batch) => ['count', 'sum'].map((end) => `payrelay_batch_size_${end}{batch="${batch}"}`)),
  ...DEAD_LETTER_REASONS.map((reason) => `payrelay_dead_letters_total{reason="${reason}"}`),
];

const OF_THE_RELAY = [
  ...QUEUE_STATES.map((state) => `payrelay_queue_payments{state="${state}"}`),
  'payrelay_queue_capacity',
  'payrelay_queue_oldest_waiting_seconds',
  ...GATEWAYS.flatMap((gateway) => [
    `payrelay_unresolved_payments{gateway="${gateway}"}`,
    `payrelay_unresolved_oldest_seconds{gateway="${gateway}"}`,
    `payrelay_circuit_open{gateway="${gateway}"}`,
    `payrelay_reconcile_difference{gateway="${gateway}"}`,
  ]),
  'payrelay_workers',
  ...DEAD_LETTER_REASONS.map((reason) => `payrelay_dead_letters{reason="${reason}"}`),
  'payrelay_reconcile_last_run_timestamp_seconds',
  ...PROBLEM_CODES.map((code) => `payrelay_problem{code="${code}"}`),
];

const OF_A_WORKER = ['payrelay_worker_in_flight', 'payrelay_worker_concurrency'];

const isOurs = (series: string) => series.startsWith('payrelay_') && !/_bucket\{(?!.*\+Inf)|build_info/.test(series);

describe('metrics', () => {
  it('of a new process have every series without an open label, at 0', async () => {
    for (const role of ['api', 'worker', 'all'] as const) {
      const values = parseExposition(await setUp(role).text());
      for (const series of COUNTED) expect(values.get(series), `${series} of ${role}`).to.equal(0);
    }
  });

  it('of an API node have the gauges of the relay', async () => {
    const values = parseExposition(await api().text());
    expect(OF_THE_RELAY.filter((series) => !values.has(series))).to.deep.equal([]);
    expect(OF_A_WORKER.filter((series) => values.has(series))).to.deep.equal([]);
    expect(values.get('payrelay_queue_payments{state="delayed"}')).to.equal(2);
    expect(values.get('payrelay_queue_capacity')).to.equal(50_000);
    expect(values.get('payrelay_queue_oldest_waiting_seconds')).to.equal(12.5);
    expect(values.get('payrelay_unresolved_payments{gateway="primary"}')).to.equal(4);
    expect(values.get('payrelay_unresolved_oldest_seconds{gateway="primary"}')).to.equal(90);
    expect(values.get('payrelay_circuit_open{gateway="primary"}')).to.equal(2);
    expect(values.get('payrelay_workers')).to.equal(2);
    expect(values.get('payrelay_dead_letters{reason="invalid_payment"}')).to.equal(5);
    expect(values.get('payrelay_dead_letters{reason="rejected"}')).to.equal(0);
    expect(values.get('payrelay_reconcile_difference{gateway="primary"}')).to.equal(1);
    expect(values.get('payrelay_reconcile_last_run_timestamp_seconds')).to.equal(1_752_580_800.5);
    expect(values.get('payrelay_problem{code="primary_down"}')).to.equal(1);
    expect(values.get('payrelay_problem{code="queue_full"}')).to.equal(0);
  });

  it('of a worker have its own gauges, and none of the relay', async () => {
    const values = parseExposition(await setUp('worker', { worker: () => VITALS }).text());
    expect(values.get('payrelay_worker_in_flight')).to.equal(5);
    expect(values.get('payrelay_worker_concurrency')).to.equal(16);
    expect(values.get('payrelay_circuit_open{gateway="primary"}')).to.equal(1);
    expect(values.get('payrelay_circuit_open{gateway="fallback"}')).to.equal(0);
    const others = OF_THE_RELAY.filter((series) => !series.startsWith('payrelay_circuit_open'));
    expect(others.filter((series) => values.has(series))).to.deep.equal([]);
  });

  it('of a process with both roles have the gauges of both', async () => {
    const values = parseExposition(await setUp('all', { worker: () => VITALS, gauges: async () => GAUGES }).text());
    expect([...OF_THE_RELAY, ...OF_A_WORKER].filter((series) => !values.has(series))).to.deep.equal([]);
    expect(values.get('payrelay_circuit_open{gateway="primary"}')).to.equal(2);
  });

  it('have no other series of ours', async () => {
    const values = parseExposition(await setUp('all', { worker: () => VITALS, gauges: async () => GAUGES }).text());
    const known = new Set([
      ...COUNTED,
      ...OF_THE_RELAY,
      ...OF_A_WORKER,
      ...BATCHES.map((batch) => `payrelay_batch_size_bucket{batch="${batch}",le="+Inf"}`),
    ]);
    expect([...values.keys()].filter((series) => isOurs(series) && !known.has(series))).to.deep.equal([]);
  });

  it('name the version and the role', async () => {
    const values = parseExposition(await api().text());
    const labels = `version="1.2.3",role="api",node_version="${process.version}"`;
    expect(values.get(`payrelay_build_info{${labels}}`)).to.equal(1);
  });

  it('have those of process and runtime', async () => {
    const names = metricNames(await api().text());
    expect(names).to.include.members([
      'process_cpu_seconds_total',
      'process_resident_memory_bytes',
      'nodejs_eventloop_lag_seconds',
    ]);
  });

  it('have durations in seconds, in buckets that each include the smaller ones', async () => {
    const metrics = api();
    for (const waitMs of [4, 40, 4_000_000]) events.paymentTaken.publish({ waitMs });
    const values = parseExposition(await metrics.text());
    const bucket = (le: string) => values.get(`payrelay_hop_duration_seconds_bucket{hop="wait",le="${le}"}`);
    expect([bucket('0.002'), bucket('0.005'), bucket('0.05'), bucket('1800'), bucket('+Inf')]).to.deep.equal([
      0, 1, 2, 2, 3,
    ]);
    expect(values.get('payrelay_hop_duration_seconds_sum{hop="wait"}')).to.equal(4_000.044);
    expect(values.get('payrelay_hop_duration_seconds_count{hop="wait"}')).to.equal(3);
  });

  it('omit the status of a request without a response, and give an error status as the error', async () => {
    const metrics = api();
    events.gatewayRequestEnded.publish({ gateway: 'primary', status: 200, durationMs: 1 });
    events.gatewayRequestEnded.publish({ gateway: 'primary', status: 503, durationMs: 1 });
    events.gatewayRequestEnded.publish({ gateway: 'primary', errorType: 'ETIMEDOUT', durationMs: 1 });
    const counts = [...parseExposition(await metrics.text())].filter(([series]) =>
      series.startsWith('http_client_request_duration_seconds_count'),
    );
    const name = 'http_client_request_duration_seconds_count';
    expect(counts).to.deep.equal([
      [`${name}{gateway="primary",http_response_status_code="200"}`, 1],
      [`${name}{gateway="primary",http_response_status_code="503",error_type="503"}`, 1],
      [`${name}{gateway="primary",error_type="ETIMEDOUT"}`, 1],
    ]);
  });

  it('are NaN where the relay could not be read in part', async () => {
    const values = parseExposition(
      await api(async () => ({
        ...GAUGES,
        queue: undefined,
        deadLetters: undefined,
        reconciliation: undefined,
      })).text(),
    );
    for (const series of OF_THE_RELAY) {
      const isUnread = /queue_payments|dead_letters|reconcile/.test(series);
      expect(Number.isNaN(values.get(series)), series).to.equal(isUnread);
    }
  });

  it('are NaN, and the rest is there, when the provider of gauges throws or rejects', async () => {
    const providers: NonNullable<TelemetryPart['gauges']>[] = [
      () => {
        throw new Error('broken');
      },
      () => Promise.reject(new Error('broken')),
    ];
    for (const gauges of providers) {
      const values = parseExposition(await api(gauges).text());
      expect(OF_THE_RELAY.filter((series) => !Number.isNaN(values.get(series)))).to.deep.equal([]);
      expect(COUNTED.filter((series) => values.get(series) !== 0)).to.deep.equal([]);
    }
  });

  it('are there in time when the gauges are not, and ask for them once while they hang', async () => {
    let asked = 0;
    let answer = (_gauges: RelayGauges) => {};
    const metrics = api(() => {
      asked += 1;
      return new Promise((resolve) => {
        answer = resolve;
      });
    });
    const clock = sinon.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
    atTestEnd(() => clock.restore());
    const scrape = async () => {
      const text = metrics.text();
      await clock.tickAsync(2_000);
      return parseExposition(await text);
    };
    expect((await scrape()).get('payrelay_workers')).to.be.NaN;
    expect((await scrape()).get('payrelay_workers')).to.be.NaN;
    expect(asked).to.equal(1);
    answer(GAUGES);
    await clock.tickAsync(0);
    const third = metrics.text();
    await clock.tickAsync(0);
    answer(GAUGES);
    expect(parseExposition(await third).get('payrelay_workers')).to.equal(2);
    expect(asked).to.equal(2);
  });

  it('share one read of the gauges among scrapes at the same time', async () => {
    let asked = 0;
    const metrics = api(async () => {
      asked += 1;
      return GAUGES;
    });
    const texts = await Promise.all([metrics.text(), metrics.text(), metrics.text()]);
    expect(new Set(texts).size).to.equal(1);
    expect(asked).to.equal(1);
    await metrics.text();
    expect(asked).to.equal(2);
  });

  it('go on without a worker that cannot tell its vitals', async () => {
    const values = parseExposition(
      await setUp('worker', {
        worker: () => {
          throw new Error('broken');
        },
      }).text(),
    );
    expect(values.get('payrelay_worker_in_flight')).to.be.NaN;
    expect(values.get('payrelay_circuit_open{gateway="primary"}')).to.be.NaN;
  });

  it('have the content type of prom-client', () => {
    expect(api().contentType).to.equal(prometheusContentType);
  });

  it('are listed in docs/operating.md with their labels, and no others', async () => {
    const metrics = setUp('all', { worker: () => VITALS, gauges: async () => GAUGES });
    events.requestFinished.publish({ route: '/payments', method: 'POST', status: 204, durationMs: 1 });
    events.gatewayRequestEnded.publish({ gateway: 'primary', status: 503, durationMs: 1 });
    const [, section] = /^## Metrics\n([\s\S]*?)^## /m.exec(readFileSync('docs/operating.md', 'utf8')) ?? [];
    const documented = [...(section ?? '').matchAll(/^\| `((?:payrelay|http)_\w+)` \|([^|]*)\|/gm)].map(
      ([, name, labels]) => [name!, [...labels!.matchAll(/`(\w+)`/g)].map(([, label]) => label!)] as const,
    );
    const ours = [...labelsByName(await metrics.text())].filter(([name]) => /^(payrelay|http)_/.test(name));
    expect(Object.fromEntries(documented)).to.deep.equal(Object.fromEntries(ours));
  });
});
