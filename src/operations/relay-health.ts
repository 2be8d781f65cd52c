import { LedgerUnavailableError, PoolBusyError } from '../errors.ts';
import type { Ledger } from '../ledger/ledger.ts';
import { describeError } from '../process/describe-error.ts';
import type { Failure } from '../process/outage-log.ts';
import { ACCEPTING_SHARE } from '../queue/memory-headroom.ts';
import type { QueueState, QueueWatch } from '../queue/queue-state.ts';
import { lastingFault, type ServerCheck } from '../queue/server-check.ts';
import type { Since, WorkerVitals } from '../telemetry/heartbeat.ts';
import { GATEWAYS, PROBLEM_CODES } from '../telemetry/labels.ts';

export type ProblemCode = (typeof PROBLEM_CODES)[number];

export interface Problem {
  readonly code: ProblemCode;
  /** When it was first seen, ISO 8601. */
  readonly since: string;
  /** A sentence for people. */
  readonly cause: string;
}

export interface RelayHealth {
  readonly queue: QueueState;
  /** Live workers. */
  readonly workers: number;
  /** The worst first, in the order of {@link PROBLEM_CODES}. */
  readonly problems: readonly Problem[];
}

/** As exact as `since` must be for a person. Each look costs a node 0.5 ms of CPU, so not with every heartbeat. */
export const LOOK_EVERY_MS = 5_000;

export interface RelayHealthCheck {
  /** Looks at Redis and PostgreSQL now. @throws QueueUnavailableError when Redis gives no usable reply */
  check(): Promise<RelayHealth>;
  /**
   * Looks at Redis alone, to learn when a problem begins. Call it every {@link LOOK_EVERY_MS}: a problem that ends and begins again between
   * two looks counts as one. Never rejects.
   */
  look(): Promise<void>;
  /**
   * Since when this process sees which problem, for its heartbeat. A process that starts takes it over from those of the
   * others, so that `since` outlives a rolling restart.
   */
  readonly seen: Readonly<Record<string, string>>;
}

/** How long the workers may take to write a heartbeat again, once Redis takes them. */
const HEARTBEATS_RETURN_MS = 2_000;

/** How long a failed ping counts between two checks. Monitoring asks more often. */
const PING_COUNTS_MS = 60_000;

export function createRelayHealthCheck({
  queueWatch,
  refusal,
  ledger,
  serverCheck,
  maxSize,
}: {
  queueWatch: QueueWatch;
  /** Why Redis has refused the last heartbeat of this process. It takes what a payment takes: memory, a disk, replicas. */
  refusal: () => Failure | undefined;
  ledger: Pick<Ledger, 'ping'>;
  serverCheck: Pick<ServerCheck, 'fault' | 'problems'>;
  /** How many payments may wait in all shards together. */
  maxSize: number;
}): RelayHealthCheck {
  let seen: Readonly<Record<string, string>> = {};
  /** Reads begun so far, and the last of those that are done. */
  let reads = 0;
  let lastDone = 0;
  let lacksUntilMs = 0;
  let pinging: Promise<string | undefined> | undefined;
  let lastPing: { readonly failure: string | undefined; readonly atMs: number } | undefined;

  /** Why PostgreSQL cannot be used. */
  async function ping(): Promise<string | undefined> {
    try {
      await ledger.ping();
      return undefined;
    } catch (error) {
      if (error instanceof PoolBusyError) return undefined;
      if (error instanceof LedgerUnavailableError) return causeOf(error);
      throw error;
    }
  }

  /** One at a time, so that many checks do not use up the connections to a PostgreSQL that hangs. */
  async function pingOnce(): Promise<void> {
    pinging ??= ping().finally(() => {
      pinging = undefined;
    });
    lastPing = { failure: await pinging, atMs: performance.now() };
  }

  /** Redis may refuse heartbeats now. Then the lack of one does not mean that no worker is there. */
  function heartbeatsMayLack(): void {
    lacksUntilMs = performance.now() + HEARTBEATS_RETURN_MS;
  }

  async function readQueue(): Promise<QueueState> {
    try {
      return await queueWatch.read();
    } catch (error) {
      heartbeatsMayLack();
      throw error;
    }
  }

  /** @param pinged is awaited only while Redis responds */
  async function read(pinged?: Promise<void>): Promise<RelayHealth> {
    reads += 1;
    const mine = reads;
    const [queue] = await Promise.all([readQueue(), pinged]);
    const ledgerFailure = lastPing && performance.now() - lastPing.atMs < PING_COUNTS_MS ? lastPing.failure : undefined;
    const workers = queue.heartbeats.flatMap(({ worker }) => worker ?? []);
    const findings = [
      ...ofRedis(queue, [lastingFault(serverCheck), queue.heartbeatFault, refusal()]),
      ...ofShards(queue),
      ...ofQueue(queue, maxSize),
      ...(ledgerFailure === undefined ? [] : [{ code: 'ledger_unavailable', cause: ledgerFailure } as const]),
      ...ofWorkers(workers),
      // Last, because payments are accepted all the same. What may not be read is a warning in the log.
      ...serverCheck.problems.filter(({ code }) => code !== 'unreadable').map(ofServer),
    ];
    if (findings.some(({ code }) => code === 'redis_memory' || code === 'queue_unavailable')) heartbeatsMayLack();
    if (workers.length === 0 && performance.now() > lacksUntilMs && queue.heartbeatFault === undefined) {
      findings.push({ code: 'no_worker', cause: 'no worker has written a heartbeat in the last 5 s' });
    }
    const problems = withTimes(findings, [seen, ...queue.heartbeats.map((heartbeat) => heartbeat.problems ?? {})]);
    const found = Object.fromEntries(problems.map(({ code, since }) => [code, since]));
    // A read that a later one has overtaken does not know what has begun meanwhile.
    seen = mine < lastDone ? { ...found, ...seen } : found;
    lastDone = Math.max(mine, lastDone);
    return { queue, workers: workers.length, problems };
  }

  return {
    check: () => read(pingOnce()),
    async look() {
      // Redis is unreachable: what was seen before may still be so.
      await read().catch(() => undefined);
    },
    get seen() {
      return seen;
    },
  };
}

/** A problem that may know since when it is there. */
interface Finding {
  readonly code: ProblemCode;
  readonly cause: string;
  readonly since?: string;
}

/** What makes Redis unusable for payments. */
function ofRedis({ memory }: QueueState, failures: readonly (Failure | undefined)[]): Finding[] {
  const findings = failures.filter((failure) => failure !== undefined).map(ofServer);
  const used = memory ? memory.usedBytes / memory.maxBytes : 0;
  if (used >= ACCEPTING_SHARE) {
    const cause = `Redis has used ${Math.floor(used * 100)} % of its maxmemory; from 90 % on no payment is accepted`;
    findings.unshift({ code: 'redis_memory', cause });
  }
  return findings;
}

/** The codes of the server check and of Redis' replies that are problems of their own. */
const PROBLEM_OF: Readonly<Record<string, ProblemCode>> = {
  eviction_policy: 'eviction_policy',
  not_durable: 'durability',
  few_replicas: 'durability',
  failover_loses: 'durability',
  not_replicated: 'durability',
  missing_right: 'missing_right',
  out_of_memory: 'redis_memory',
  wrong_type: 'wrong_type',
};

function ofServer({ code, detail }: Failure): Finding {
  return { code: PROBLEM_OF[code] ?? 'queue_unavailable', cause: detail };
}

/** The shards that give no usable reply: their payments are not accepted. */
function ofShards({ shards }: QueueState): Finding[] {
  const places = shards.flatMap(({ failure }, index) => (failure === undefined ? [] : [{ index, failure }]));
  const [first] = places;
  if (first === undefined) return [];
  const named = namedShards(
    places.map(({ index }) => index),
    shards.length,
  );
  return [{ code: 'queue_unavailable', cause: `payments of ${named} are not accepted: ${first.failure.detail}` }];
}

function ofQueue({ size, shards, isPaused, pausedBy }: QueueState, maxSize: number): Finding[] {
  const findings: Finding[] = [];
  const placesOf = (isMeant: (shard: { size: number; isPaused: boolean }) => boolean) =>
    shards.flatMap((shard, index) => (shard.failure === undefined && isMeant(shard) ? [index] : []));
  const capOfEach = maxSize / shards.length;
  const full = placesOf((shard) => shard.size >= capOfEach);
  if (full.length > 0) {
    const cause =
      shards.length === 1
        ? `${size} payments are queued; PAYMENT_QUEUE_MAX_SIZE is ${maxSize}`
        : `full: ${namedShards(full, shards.length)}; each has room for ${capOfEach} payments of PAYMENT_QUEUE_MAX_SIZE`;
    findings.push({ code: 'queue_full', cause });
  }
  if (isPaused) {
    const by =
      pausedBy === undefined ? '' : ` by ${pausedBy.who}${pausedBy.reason === undefined ? '' : `: ${pausedBy.reason}`}`;
    const paused = placesOf((shard) => shard.isPaused);
    const where = paused.length === shards.length ? '' : ` of ${namedShards(paused, shards.length)}`;
    const cause = `workers take no payments${where}: the queue was paused${by}`;
    findings.push({ code: 'queue_paused', cause, ...(pausedBy && { since: pausedBy.at }) });
  }
  return findings;
}

/** @param places from 0 */
function namedShards(places: readonly number[], count: number): string {
  return `shard ${places.map((place) => place + 1).join(', ')} of ${count}`;
}

/** What workers say about the gateways, the ledger and their Redis. */
function ofWorkers(workers: readonly WorkerVitals[]): Finding[] {
  const findings: Finding[] = [];
  const add = (code: ProblemCode, said: readonly Since[], before = '') => {
    const [first] = [...said].sort((a, b) => Date.parse(a.since) - Date.parse(b.since));
    if (first === undefined) return;
    const where = said.length < workers.length ? ` (in ${said.length} of ${workers.length} workers)` : '';
    findings.push({ code, cause: `${before}${first.detail}${where}`, since: first.since });
  };
  for (const gateway of GATEWAYS) {
    const said = workers.flatMap(({ gateways: { [gateway]: it } }) => (it.alone ? [] : (it.down ?? [])));
    add(`${gateway}_down`, said, `the ${gateway} gateway does not accept payments: `);
  }
  findings.push(...ofThoseAlone(workers));
  add(
    'ledger_unavailable',
    workers.flatMap(({ ledgerDown }) => ledgerDown ?? []),
  );
  const faults = workers.flatMap(({ fault }) => fault ?? []);
  for (const code of new Set(faults.map((fault) => ofServer(fault).code))) {
    const said = faults.filter((fault) => ofServer(fault).code === code);
    add(code, said, 'workers take no payments: ');
  }
  return findings;
}

/** Names each worker that fails where others pay. The gateway is not down then. */
function ofThoseAlone(workers: readonly WorkerVitals[]): Finding[] {
  const said = GATEWAYS.flatMap((gateway) =>
    workers.flatMap(({ gateways }) => {
      const { alone } = gateways[gateway];
      return alone ? [{ gateway, ...alone }] : [];
    }),
  );
  if (said.length === 0) return [];
  const each = said.map(({ gateway, detail }) => `${detail} (${gateway} gateway)`).join('; ');
  const since = earliest(said.map((one) => one.since));
  return [{ code: 'worker_alone', cause: `other workers pay where these fail: ${each}`, since }];
}

/**
 * One problem for each code, in the order of {@link PROBLEM_CODES}. One that does not know its time has the earliest at which
 * anybody saw it.
 */
function withTimes(findings: readonly Finding[], seenByAll: readonly Readonly<Record<string, string>>[]): Problem[] {
  const now = new Date().toISOString();
  return PROBLEM_CODES.flatMap((code) => {
    const found = findings.filter((finding) => finding.code === code);
    if (found.length === 0) return [];
    const firstSeen = earliest([now, ...seenByAll.flatMap((seen) => seen[code] ?? [])]);
    const since = earliest(found.map((finding) => finding.since ?? firstSeen));
    return [{ code, since, cause: found[0]!.cause }];
  });
}

function earliest(times: readonly string[]): string {
  return times.reduce((first, time) => (Date.parse(time) < Date.parse(first) ? time : first));
}

/** What an operator should read of it. */
function causeOf({ message, cause }: LedgerUnavailableError): string {
  return cause === undefined ? message : `${message}: ${describeError(cause)}`;
}
