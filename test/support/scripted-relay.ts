import type { Queue } from 'bullmq';
import { expect } from 'chai';
import pg from 'pg';
import { atTestEnd } from './cleanup.ts';
import { bullQueue, lookInto } from './queue.ts';
import { aPayment, eventually, postPayment, type TestEnv, testApi, testWorker } from './relay.ts';
import { type Reply, type ScriptedGateway, scriptedGateway } from './scripted-gateway.ts';
import { freshPrefix } from './services.ts';

/** How long a payment may take after its gateway works again: its own pause, on a busy machine. */
const RECORDED_WITHIN_MS = 20_000;

/** A second or two of backoff, and the probes of some twenty payments. */
const HELD_BACK_WITHIN_MS = 10_000;

export interface LedgerEntry {
  readonly gateway: string;
  readonly amountCents: number;
  readonly requestedAt: string;
}

/** Reads a ledger over a connection that is closed after the test. */
export async function ledgerReader(databaseUrl: string): Promise<() => Promise<Map<string, LedgerEntry>>> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  atTestEnd(() => client.end());
  return async () => {
    const { rows } = await client.query<{
      correlation_id: string;
      gateway: string;
      amount_cents: string;
      requested_at: Date;
    }>('SELECT correlation_id, gateway, amount_cents, requested_at FROM payments');
    return new Map(
      rows.map(({ correlation_id, gateway, amount_cents, requested_at }) => [
        correlation_id,
        { gateway, amountCents: Number(amount_cents), requestedAt: requested_at.toISOString() },
      ]),
    );
  };
}

export type ScriptedRelay = Awaited<ReturnType<typeof scriptedRelay>>;

/**
 * An API and a worker in this process, between two gateways whose responses the test chooses. The worker starts with
 * `work`, so that a test can queue payments before it. The policy allows the fallback as early as possible, so a payment
 * that may go there does.
 * @param options `rejectAfterMs` is GATEWAY_REJECT_AFTER_MS, shorter than the setting may be
 */
export async function scriptedRelay(env: TestEnv = {}, { rejectAfterMs }: { rejectAfterMs?: number } = {}) {
  const prefix = freshPrefix();
  const [primary, fallback] = await Promise.all([scriptedGateway(), scriptedGateway()]);
  const settings = {
    GATEWAY_PRIMARY_URL: primary.url,
    GATEWAY_FALLBACK_URL: fallback.url,
    GATEWAY_EMPTY_500: 'unknown',
    FALLBACK_ON: 'not_sent',
    FALLBACK_AFTER_MS: '500',
    PAYMENT_QUEUE_MAX_CONCURRENCY: '16',
    ...env,
  };
  const { url, config } = await testApi(settings, prefix);
  const databaseUrl = config.database.url;
  const queue = await lookInto(prefix);
  const ledger = await ledgerReader(databaseUrl);
  let promoter: Queue | undefined;

  return {
    url,
    redisUrl: config.redis.url,
    prefix,
    primary,
    fallback,
    databaseUrl,
    ledger,
    job: queue.job,
    work: () =>
      testWorker({ DATABASE_URL: databaseUrl, ...settings }, prefix, (config) =>
        rejectAfterMs === undefined ? config : withSetting(config, 'rejectAfterMs', rejectAfterMs),
      ),
    /** Posts a new payment. @returns its id once it is accepted */
    async post(amount?: number): Promise<string> {
      const payment = aPayment(amount);
      const { status } = await postPayment(url, payment);
      expect(status, 'POST /payments').to.equal(204);
      return payment.correlationId;
    },
    /** Posts so many new payments, one after the other. @returns their ids in the order of the queue */
    async postMany(count: number): Promise<string[]> {
      const ids: string[] = [];
      for (let n = 0; n < count; n += 1) ids.push(await this.post());
      return ids;
    },
    /** Resolves with the ledger when it has all of these payments. */
    recorded: (ids: Iterable<string>, timeoutMs = RECORDED_WITHIN_MS) => {
      const awaited = [...ids];
      return eventually(async () => {
        const rows = await ledger();
        return awaited.every((id) => rows.has(id)) && rows;
      }, timeoutMs);
    },
    /** What `GET /payments/{correlationId}` responds. */
    status: async (id: string) => (await (await fetch(`${url}/payments/${id}`)).json()) as Record<string, unknown>,
    /** Ids of the dead letters in Redis. */
    deadLetters: () => queue.redis.zrange(queue.key('failed'), 0, -1),
    /** Resolves when no job is left. */
    drained: () =>
      eventually(async () => (await queue.redis.keys(`${queue.key('')}????????-*`)).length === 0, RECORDED_WITHIN_MS),
    /** Ids that are listed as unresolved at the primary, or those at the fallback. */
    unresolved: (list = 'unresolved') => queue.redis.zrange(queue.key(list), 0, -1),
    /** Ids of the payments in flight. */
    active: () => queue.redis.lrange(queue.key('active'), 0, -1),
    redis: queue.redis,
    key: queue.key,
    /** How often workers have taken these payments from the queue. */
    async fetches(ids: readonly string[]): Promise<number> {
      const counts = await Promise.all(ids.map(async (id) => Number((await queue.job(id))['ats'] ?? 0)));
      return counts.reduce((sum, count) => sum + count, 0);
    },
    /** Ends the pauses of these payments, as an operator can in the dashboard. */
    async hurry(ids: readonly string[]): Promise<void> {
      promoter ??= await bullQueue(prefix);
      for (const id of ids) {
        const job = await promoter.getJob(id);
        // Its pause may end at this moment.
        if (await job?.isDelayed()) await job?.promote().catch(() => undefined);
      }
    },
    /** A wrong verdict breaks one of these: the ledger equals what the gateways have on record, and each id is there once. */
    async expectTrueBooks(): Promise<void> {
      expect(booked(primary, fallback), 'the ledger and the gateways').to.deep.equal(sorted(await ledger()));
      const twice = [...primary.onRecord.keys()].filter((id) => fallback.onRecord.has(id));
      expect(twice, 'paid twice').to.deep.equal([]);
    },
  };
}

/** A copy in which every property of this name, at any depth, has this value. */
function withSetting<T>(part: T, name: string, value: number): T {
  if (typeof part !== 'object' || part === null || Array.isArray(part)) return part;
  const entries = Object.entries(part).map(([key, it]) => [key, key === name ? value : withSetting(it, name, value)]);
  return Object.fromEntries(entries) as T;
}

function booked(primary: ScriptedGateway, fallback: ScriptedGateway) {
  const of = ({ onRecord }: ScriptedGateway, gateway: string) =>
    [...onRecord].map(([id, { amount, requestedAt }]): [string, LedgerEntry] => [
      id,
      { gateway, amountCents: Math.round(amount * 100), requestedAt },
    ]);
  return sorted([...of(primary, 'default'), ...of(fallback, 'fallback')]);
}

function sorted(entries: Iterable<[string, LedgerEntry]>): [string, LedgerEntry][] {
  return [...entries].sort(([a], [b]) => a.localeCompare(b));
}

/**
 * Sends one payment for each of these replies. The primary gives the reply until it recovers. Every such payment must stay
 * with the primary, in the queue, listed with its reason, and be recorded once after the recovery.
 * @returns the number of look-ups of each payment before the recovery
 */
export async function expectUnknown(
  replies: Readonly<Record<string, Reply>>,
  { env = {}, lookUp }: { env?: TestEnv; lookUp?: (name: string) => Reply | undefined } = {},
): Promise<Record<string, number>> {
  const relay = await scriptedRelay(env);
  const { primary, fallback } = relay;
  const nameOf = new Map<string, string>();
  let isRecovered = false;
  // All first replies are sent together. Otherwise the first ones would open the circuit before the last ones are tried.
  const arrived = new Set<string>();
  const allArrived = Promise.withResolvers<void>();
  primary.onPayment = ({ correlationId }) => {
    arrived.add(correlationId);
    if (arrived.size === nameOf.size) allArrived.resolve();
    if (isRecovered) return undefined;
    return (arrival, gateway) =>
      void allArrived.promise.then(() => replies[nameOf.get(correlationId)!]!(arrival, gateway));
  };
  primary.onLookUp = ({ correlationId }) => (isRecovered ? undefined : lookUp?.(nameOf.get(correlationId)!));
  for (const name of Object.keys(replies)) nameOf.set(await relay.post(), name);
  const ids = [...nameOf.keys()];
  const named = (some: Iterable<string>) => [...some].map((id) => nameOf.get(id)!).sort();
  const acceptedAtMs = performance.now();
  await relay.work();
  // Every payment has been tried and is back in the queue, and some were sent again when all were old enough for the
  // fallback. The checks below name what did not happen in time.
  const isHeldBack = async () => {
    const listed = new Set(await relay.unresolved());
    const wasRetried = primary.posts.some(({ atMs, attempt }) => attempt > 1 && atMs > acceptedAtMs + 1_000);
    return wasRetried && ids.every((id) => listed.has(id));
  };
  await eventually(isHeldBack, HELD_BACK_WITHIN_MS).catch(() => undefined);
  const [rows, dead, listed] = await Promise.all([relay.ledger(), relay.deadLetters(), relay.unresolved()]);
  const charged = new Set(primary.onRecord.keys());
  const asked = Object.fromEntries(ids.map((id) => [nameOf.get(id)!, primary.lookUpsOf(id).length]));
  const reasons = new Map(
    await Promise.all(
      ids.map(async (id): Promise<[string, string | undefined]> => [id, (await relay.job(id))['reason']]),
    ),
  );
  expect(named(fallback.posts.map(({ correlationId }) => correlationId)), 'sent to the fallback').to.deep.equal([]);
  expect(named(dead), 'dead letters').to.deep.equal([]);
  expect(named(rows.keys()), 'recorded without proof').to.deep.equal([]);
  expect(named(ids.filter((id) => primary.postsOf(id).length === 0)), 'never sent').to.deep.equal([]);
  expect(named(ids.filter((id) => !listed.includes(id))), 'not listed as unresolved').to.deep.equal([]);
  expect(named(ids.filter((id) => !reasons.get(id))), 'without a reason').to.deep.equal([]);
  expect(await isHeldBack(), 'any of them sent again').to.equal(true);

  isRecovered = true;
  await relay.hurry(ids);
  await relay.recorded(ids);
  await relay.drained();
  await relay.expectTrueBooks();
  expect([...(await relay.ledger()).keys()].filter((id) => charged.has(id))).to.have.length(charged.size);
  expect(fallback.posts, 'sent to the fallback').to.deep.equal([]);
  expect(await relay.unresolved(), 'still listed as unresolved').to.deep.equal([]);
  return asked;
}

/**
 * Sends some payments to a primary that gives this reply to all of them. The reply proves that none of them was charged, so
 * all must be paid at the fallback as soon as they are old enough.
 */
export async function expectFallback(reply: Reply, env: TestEnv = {}): Promise<void> {
  const relay = await scriptedRelay(env);
  relay.primary.onPayment = () => reply;
  const ids = await relay.postMany(6);
  await relay.work();
  const rows = await relay.recorded(ids);
  expect(new Set([...rows.values()].map(({ gateway }) => gateway))).to.deep.equal(new Set(['fallback']));
  await relay.drained();
  await relay.expectTrueBooks();
  expect(relay.primary.lookUps, 'look-ups').to.deep.equal([]);
  expect(await relay.deadLetters(), 'dead letters').to.deep.equal([]);
}
