import type { GatewayName } from '../payment.ts';
import type { GatewayVitals, Heartbeat, Rates, Since, WorkerVitals } from '../telemetry/heartbeat.ts';

/**
 * A heartbeat as it is in Redis. Another version of Payrelay may have written it, so what is missing or of another type gets
 * the value that says nothing, and what is unknown is dropped.
 * @returns undefined when it is no heartbeat at all
 */
export function parseHeartbeat(json: string): Heartbeat | undefined {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    return undefined;
  }
  const { id, role, host, pid, version, startedAt, accepted, rates, hops, worker, problems } = fieldsOf(value);
  if (typeof id !== 'string' || (role !== 'api' && role !== 'worker' && role !== 'all')) return undefined;
  return {
    id,
    role,
    host: textOf(host),
    pid: numberOf(pid),
    version: textOf(version),
    startedAt: textOf(startedAt),
    accepted: numberOf(accepted),
    rates: ratesOf(rates),
    hops: hopsOf(hops),
    ...(isObject(worker) && { worker: workerOf(worker) }),
    ...(isObject(problems) && { problems: timesOf(problems) }),
  };
}

function workerOf({ workerId, concurrency, inFlight, gateways, ledgerDown, fault }: Fields): WorkerVitals {
  const ofGateway = (name: GatewayName): GatewayVitals => {
    const { down, alone, waiting, steered, underWay } = fieldsOf(fieldsOf(gateways)[name]);
    return {
      ...optional('down', sinceOf(down)),
      ...optional('alone', sinceOf(alone)),
      waiting: numberOf(waiting),
      ...((steered === 'open' || steered === 'draining' || steered === 'stopped') && { steered }),
      ...(typeof underWay === 'number' && { underWay }),
    };
  };
  return {
    workerId: textOf(workerId),
    concurrency: numberOf(concurrency),
    inFlight: numberOf(inFlight),
    gateways: ofEach(ofGateway),
    ...optional('ledgerDown', sinceOf(ledgerDown)),
    ...optional('fault', sinceOf(fault)),
  };
}

function sinceOf(value: unknown): Since | undefined {
  const { since, code, detail } = fieldsOf(value);
  return isTime(since) ? { since, code: textOf(code), detail: textOf(detail) } : undefined;
}

function ratesOf(value: unknown): Rates {
  const { accepted, notAccepted, paid } = fieldsOf(value);
  return {
    accepted: numberOf(accepted),
    notAccepted: numberOf(notAccepted),
    paid: ofEach((gateway) => numberOf(fieldsOf(paid)[gateway])),
  };
}

function hopsOf(value: unknown): Heartbeat['hops'] {
  const { accept, wait, send, record } = fieldsOf(value);
  const counts = (hop: unknown) => (Array.isArray(hop) ? hop.map(numberOf) : []);
  return { accept: counts(accept), wait: counts(wait), send: counts(send), record: counts(record) };
}

function timesOf(problems: Fields): Record<string, string> {
  const times = Object.entries(problems).filter((entry): entry is [string, string] => isTime(entry[1]));
  return Object.fromEntries(times);
}

type Fields = Readonly<Record<string, unknown>>;

function fieldsOf(value: unknown): Fields {
  return isObject(value) ? value : {};
}

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isTime(value: unknown): value is string {
  return typeof value === 'string' && !Number.isNaN(Date.parse(value));
}

const textOf = (value: unknown) => (typeof value === 'string' ? value : '');
const numberOf = (value: unknown) => (typeof value === 'number' ? value : 0);

function ofEach<Value>(of: (gateway: GatewayName) => Value): Record<GatewayName, Value> {
  return { primary: of('primary'), fallback: of('fallback') };
}

/** A field that is absent instead of undefined. */
function optional<Name extends string>(name: Name, value: Since | undefined): { [key in Name]?: Since } {
  return value === undefined ? {} : ({ [name]: value } as { [key in Name]: Since });
}
