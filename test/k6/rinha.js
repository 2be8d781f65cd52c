// The scenarios of the Rinha de Backend 2025: a ramp of users, each posting a payment and thinking for a second, stages of
// health of the two gateways, a probe that compares the books, and the score.
//
//   k6 run test/k6/rinha.js
//   SCENARIO       minute (default), by which entries were tried out, or final
//   MAX_REQUESTS   users at the end of the ramp (550 and 603; the challenge's own default for the minute is 500)
//   BACKEND_URL, PRIMARY_URL, FALLBACK_URL, TOKEN
//   RESULT         a file for the result as JSON, read by dev/rinha.ts
import { check, sleep } from 'k6';
import http from 'k6/http';
import { Counter, Trend } from 'k6/metrics';

const SCENARIOS = {
  minute: {
    users: 550,
    seconds: 60,
    amount: 19.9,
    // Health of the gateways from a second on: delay in ms and whether every payment fails.
    stages: [
      { at: 1, default: [0, false], fallback: [0, false] },
      { at: 10, default: [100, false], fallback: [0, false] },
      { at: 20, default: [100, true], fallback: [0, false] },
      { at: 30, default: [2000, true], fallback: [1000, true] },
      { at: 40, default: [20, false], fallback: [20, false] },
      { at: 50, default: [0, false], fallback: [5000, false] },
    ],
    // The probe's window ends so long ago: what is younger may be on its way.
    probeAgeMs: 1500,
    probed: ({ totalAmount }) => cents(totalAmount),
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
    probed: ({ totalRequests }) => totalRequests,
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
const refused = new Counter('payments_refused');
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

// Every range is an address of its own; the tag keeps them one series in k6's metrics.
const tags = { name: 'summary' };

function gatewaySummary(name, range) {
  return http.get(`${GATEWAYS[name]}/admin/payments-summary?${range}`, { ...ADMIN, tags }).json();
}

// As in the challenge, a backend that does not answer has nothing in its books.
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
  refused.add(isAccepted ? 0 : 1);
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
  const held = { default: gatewaySummary('default', range), fallback: gatewaySummary('fallback', range) };
  const recorded = backendSummary(range);
  const difference = ['default', 'fallback'].reduce(
    (sum, name) => sum + Math.abs(SCENARIO.probed(held[name]) - SCENARIO.probed(recorded[name])),
    0,
  );
  inconsistency.add(difference);
  inconsistencies.add(difference === 0 ? 0 : 1);
  sleep(10);
}

export function teardown() {
  // As in the challenge: what is in the books when the time is over counts, and nothing later.
  const now = Date.now();
  const from = new Date(now - (SCENARIO.seconds + 10) * 1000);
  const range = `from=${from.toISOString()}&to=${new Date(now).toISOString()}`;
  const held = { default: gatewaySummary('default', range), fallback: gatewaySummary('fallback', range) };
  const counted = SCENARIO.books === 'gateways' ? held : backendSummary(range);
  for (const name of ['default', 'fallback']) {
    totals[name].payments.add(counted[name].totalRequests);
    totals[name].cents.add(cents(counted[name].totalAmount));
    totals[name].fee.add(held[name].feePerTransaction * counted[name].totalAmount);
  }
}

export function handleSummary({ metrics }) {
  const count = (name) => metrics[name]?.values.count ?? 0;
  // The challenge takes the p99 of all answers with an expected status, not only those to payments.
  const p99 = metrics['http_req_duration{expected_response:true}'].values['p(99)'];
  const gross = (count('default_cents') + count('fallback_cents')) / 100;
  const fees = count('default_fee') + count('fallback_fee');
  const expectedGross = (count('payments_accepted') * cents(SCENARIO.amount)) / 100;
  const bonus = Math.max(0, (11 - p99) * 0.02);
  // The final does not fine what is not paid: it only does not count.
  const isLate = SCENARIO.books === 'backend' && expectedGross !== gross;
  const isFined = count('inconsistent_probes') > 0 || isLate;
  const profit = gross - fees;
  const result = {
    accepted: count('payments_accepted'),
    refused: count('payments_refused'),
    counted: { default: count('default_payments'), fallback: count('fallback_payments') },
    lag: count('payments_accepted') - count('default_payments') - count('fallback_payments'),
    p99Ms: p99,
    paymentP99Ms: metrics.payment_ms.values['p(99)'],
    paymentMedianMs: metrics.payment_ms.values.med,
    inconsistentProbes: count('inconsistent_probes'),
    inconsistency: count('inconsistency'),
    profit,
    p99Bonus: bonus,
    fine: isFined ? 0.35 : 0,
    score: profit * (1 + bonus - (isFined ? 0.35 : 0)),
  };
  const text = JSON.stringify(result, null, 2);
  return { stdout: `${text}\n`, ...(__ENV.RESULT && { [__ENV.RESULT]: text }) };
}
