// The scenarios of the Rinha de Backend 2025, written from its rules: a ramp of users, each of whom posts a payment and then
// thinks for a second, stages of health of the two gateways, a probe that compares the books, and the score.
//
//   k6 run rinha/scenario.js
//   SCENARIO       minute (default), the challenge's preview, or final
//   MAX_REQUESTS   users at the end of the ramp (550 and 603; the challenge's own default for the minute is 500)
//   BACKEND_URL, PRIMARY_URL, FALLBACK_URL, TOKEN
//   RESULT         a file for the result as JSON, a K6Result of k6.ts
import { check, sleep } from 'k6';
import http from 'k6/http';
import { Counter, Trend } from 'k6/metrics';

const SCENARIOS = {
  minute: {
    users: 550,
    seconds: 60,
    amount: 19.9,
    // From second `at` on: each gateway's delay in ms, and whether it fails every payment.
    stages: [
      { at: 1, default: [0, false], fallback: [0, false] },
      { at: 10, default: [100, false], fallback: [0, false] },
      { at: 20, default: [100, true], fallback: [0, false] },
      { at: 30, default: [2000, true], fallback: [1000, true] },
      { at: 40, default: [20, false], fallback: [20, false] },
      { at: 50, default: [0, false], fallback: [5000, false] },
    ],
    // The probe's window ends this long ago. A younger payment may be on its way.
    probeAgeMs: 1500,
    // Whose books count at the end.
    books: 'backend',
  },
  final: {
    users: 603,
    seconds: 300,
    amount: 20.05,
    stages: [
      { at: 1, default: [0, false], fallback: [0, false] },
      { at: 30, default: [1000, false], fallback: [0, false] },
      { at: 60, default: [500, false], fallback: [0, false] },
      { at: 90, default: [2000, true], fallback: [1000, false] },
      { at: 120, default: [5000, true], fallback: [5, false] },
      { at: 150, default: [0, false], fallback: [5, true] },
      { at: 180, default: [100, false], fallback: [5, false] },
      { at: 210, default: [50, false], fallback: [0, false] },
      { at: 240, default: [103, false], fallback: [10, false] },
      { at: 270, default: [2000, false], fallback: [0, false] },
    ],
    probeAgeMs: 2000,
    books: 'gateways',
  },
};

const SCENARIO = SCENARIOS[__ENV.SCENARIO || 'minute'];
if (SCENARIO === undefined) throw new Error(`SCENARIO must be one of ${Object.keys(SCENARIOS).join(', ')}`);
const USERS = Number(__ENV.MAX_REQUESTS || SCENARIO.users);
const BACKEND = __ENV.BACKEND_URL || 'http://localhost:9999';
const GATEWAYS = {
  default: __ENV.PRIMARY_URL || 'http://localhost:8001',
  fallback: __ENV.FALLBACK_URL || 'http://localhost:8002',
};
const ADMIN = {
  headers: { 'Content-Type': 'application/json', 'X-Rinha-Token': __ENV.TOKEN || '123' },
  timeout: '1500ms',
};
const PROBE_WINDOW_MS = 15000;

const accepted = new Counter('payments_accepted');
const notAccepted = new Counter('payments_not_accepted');
const inconsistency = new Counter('inconsistency');
const inconsistencies = new Counter('inconsistent_probes');
const totals = {};
for (const name of ['default', 'fallback']) {
  totals[name] = {
    payments: new Counter(`${name}_payments`),
    cents: new Counter(`${name}_cents`),
    fee: new Counter(`${name}_fee`),
  };
}
const latency = new Trend('payment_ms', true);

export const options = {
  summaryTrendStats: ['med', 'p(99)', 'max', 'count'],
  scenarios: {
    payments: {
      executor: 'ramping-vus',
      exec: 'pay',
      startVUs: 1,
      gracefulRampDown: '0s',
      stages: [{ target: USERS, duration: `${SCENARIO.seconds}s` }],
    },
    probe: { executor: 'constant-vus', exec: 'probe', vus: 1, duration: `${SCENARIO.seconds}s` },
    ...Object.fromEntries(
      SCENARIO.stages.map(({ at }, index) => [
        `stage_${index}`,
        {
          executor: 'per-vu-iterations',
          exec: 'enterStage',
          vus: 1,
          iterations: 1,
          startTime: `${at}s`,
          env: { STAGE: String(index) },
        },
      ]),
    ),
  },
};

function configure(name, what, body) {
  const response = http.put(`${GATEWAYS[name]}/admin/configurations/${what}`, JSON.stringify(body), ADMIN);
  check(response, { 'the gateway was configured': ({ status }) => status === 200 || status === 204 });
}

// Each range is a URL of its own. The tag makes them one series in k6's metrics.
const tags = { name: 'summary' };

function gatewaySummary(name, range) {
  return http.get(`${GATEWAYS[name]}/admin/payments-summary?${range}`, { ...ADMIN, tags }).json();
}

// As in the challenge, the books of a backend that does not respond are empty.
const NOTHING = { totalRequests: 0, totalAmount: 0 };

function backendSummary(range) {
  const response = http.get(`${BACKEND}/payments-summary?${range}`, { timeout: '1500ms', tags });
  return response.status === 200 ? response.json() : { default: NOTHING, fallback: NOTHING };
}

const cents = (amount) => Math.round(amount * 100);

export function setup() {
  for (const name of ['default', 'fallback']) {
    configure(name, 'delay', { delay: 0 });
    configure(name, 'failure', { failure: false });
    http.post(`${GATEWAYS[name]}/admin/purge-payments`, null, ADMIN);
  }
  http.post(`${BACKEND}/purge-payments`, null);
}

export function pay() {
  const payment = JSON.stringify({ correlationId: crypto.randomUUID(), amount: SCENARIO.amount });
  const response = http.post(`${BACKEND}/payments`, payment, {
    headers: { 'Content-Type': 'application/json' },
    timeout: '1500ms',
  });
  const isAccepted = response.status >= 200 && response.status < 300;
  accepted.add(isAccepted ? 1 : 0);
  notAccepted.add(isAccepted ? 0 : 1);
  latency.add(response.timings.duration);
  sleep(1);
}

export function enterStage() {
  const stage = SCENARIO.stages[Number(__ENV.STAGE)];
  for (const name of ['default', 'fallback']) {
    configure(name, 'delay', { delay: stage[name][0] });
    configure(name, 'failure', { failure: stage[name][1] });
  }
}

export function probe() {
  const now = Date.now();
  const from = new Date(now - PROBE_WINDOW_MS).toISOString();
  const to = new Date(now - SCENARIO.probeAgeMs).toISOString();
  const range = `from=${from}&to=${to}`;
  const charged = { default: gatewaySummary('default', range), fallback: gatewaySummary('fallback', range) };
  const recorded = backendSummary(range);
  // Each gateway by itself, as in the final. In the minute the challenge adds up both, so it sees less.
  const difference = ['default', 'fallback'].reduce(
    (sum, name) => sum + Math.abs(charged[name].totalRequests - recorded[name].totalRequests),
    0,
  );
  inconsistency.add(difference);
  inconsistencies.add(difference === 0 ? 0 : 1);
  sleep(10);
}

export function teardown() {
  // As in the challenge, a payment counts if it is in the books when the time is over.
  const now = Date.now();
  const from = new Date(now - (SCENARIO.seconds + 10) * 1000);
  const range = `from=${from.toISOString()}&to=${new Date(now).toISOString()}`;
  const charged = { default: gatewaySummary('default', range), fallback: gatewaySummary('fallback', range) };
  const counted = SCENARIO.books === 'gateways' ? charged : backendSummary(range);
  for (const name of ['default', 'fallback']) {
    totals[name].payments.add(counted[name].totalRequests);
    totals[name].cents.add(cents(counted[name].totalAmount));
    totals[name].fee.add(charged[name].feePerTransaction * counted[name].totalAmount);
  }
}

// The challenge rounds both the p99 and the bonus to two decimals, so the bonus is in whole percents.
const round = (value) => Math.round(value * 100) / 100;

export function handleSummary({ metrics }) {
  const count = (name) => metrics[name]?.values.count ?? 0;
  // The challenge takes the p99 of all responses with an expected status, not only of those to payments.
  const p99Ms = metrics['http_req_duration{expected_response:true}'].values['p(99)'];
  const profit =
    (count('default_cents') + count('fallback_cents')) / 100 - count('default_fee') - count('fallback_fee');
  const p99Bonus = Math.max(0, round((11 - round(p99Ms)) * 0.02));
  // A single inconsistent probe is fined. A lag is not fined: payments that are not yet made only earn nothing.
  const fine = count('inconsistent_probes') > 0 ? 0.35 : 0;
  const result = {
    accepted: count('payments_accepted'),
    notAccepted: count('payments_not_accepted'),
    counted: { default: count('default_payments'), fallback: count('fallback_payments') },
    lag: count('payments_accepted') - count('default_payments') - count('fallback_payments'),
    p99Ms,
    paymentP99Ms: metrics.payment_ms.values['p(99)'],
    paymentMedianMs: metrics.payment_ms.values.med,
    inconsistentProbes: count('inconsistent_probes'),
    inconsistency: count('inconsistency'),
    profit,
    p99Bonus,
    fine,
    score: profit * (1 + p99Bonus - fine),
  };
  const text = JSON.stringify(result, null, 2);
  return { stdout: `${text}\n`, ...(__ENV.RESULT && { [__ENV.RESULT]: text }) };
}
