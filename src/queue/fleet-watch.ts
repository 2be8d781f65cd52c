import type { Cluster, Redis } from 'ioredis';
import type { GatewayName } from '../payment.ts';
import { within } from '../process/deadline.ts';
import { describeError } from '../process/describe-error.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog } from '../process/outage-log.ts';
import { fleetKey, type PaymentQueueName, probeKey } from './bullmq-layout.ts';
import { explainRedisError } from './redis-errors.ts';
import { defineScript } from './scripts.ts';

/** Half of the second in which every worker must learn what another one sees. */
const INTERVAL_MS = 500;

/** The same while a gateway is down, so that the backlog resumes everywhere soon after the first payment. */
const INTERVAL_WHEN_DOWN_MS = 200;

/** A worker that is silent for this time has ended: the others divide its share of the requests. */
const FLEET_TTL_MS = 5_000;

/** Without a reply by then, nobody knows which worker may probe. */
const ASK_MS = 300;

export interface OtherWorker {
  readonly text: string;
  /** How long ago it spoke, in ms by Redis' clock. */
  readonly agoMs: number;
}

/** How a worker speaks with the others. What they say is text to this room (gateways/fleet.ts). */
export interface FleetWatch {
  /** The place of this worker among the live ones, from 0. Undefined: Redis has not replied yet. The last one while it does not. */
  readonly standing: { readonly rank: number; readonly workers: number } | undefined;
  /** Speaks at once instead of at the next turn: something has changed. */
  speak(): void;
  /** The right to probe this gateway, which goes round the workers. */
  probeRight(gateway: GatewayName): ProbeRight;
  /** Tells the others that this worker has ended. */
  close(): Promise<void>;
}

/** For gateways/probes.ts, which has the rules. */
export interface ProbeRight {
  /** Whether other workers may be there: they are, or nobody knows. */
  readonly hasOthers: boolean;
  /** Asks for the right. Undefined: there is no other worker. Never rejects, and takes {@link ASK_MS} at most. */
  ask(limitMs: number): Promise<ProbeReply> | undefined;
  /** Never rejects. */
  tell(change: { readonly pauseMs?: number; readonly sentNew?: boolean; readonly notTaken?: boolean }): void;
  /** The gateway pays: forgets the right and the new probes. Never rejects. */
  end(): void;
}

export type ProbeReply =
  | { readonly kind: 'granted'; readonly newNotTaken: number; readonly newSentAgoMs: number }
  | { readonly kind: 'held'; readonly forMs: number; readonly newNotTaken: number; readonly newSentAgoMs: number }
  | { readonly kind: 'unknown' };

/**
 * Speaks and listens twice a second, five times while a gateway is down: one command, and none for each payment. At most one is
 * under way, and none is sent without a connection: the worker's connection would queue it.
 * @param onHeard gets what all the other live workers have said, and when they were asked, in ms of `performance.now()`
 */
export function watchFleet({
  redis,
  queue,
  workerId,
  report,
  isDown,
  onHeard,
  logger,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  /** Of this worker; no other one has it. */
  workerId: string;
  /** What this worker says now. */
  report: () => string;
  /** Whether a gateway is down for this worker. */
  isDown: () => boolean;
  onHeard: (others: readonly OtherWorker[], askedAtMs: number) => void;
  logger: Logger;
}): FleetWatch {
  const shareFleet = defineScript<(string | number)[]>(redis, 'share-fleet', 1);
  const takeProbe = defineScript<[number, number, number, number]>(redis, 'take-probe', 2);
  const tellProbe = defineScript<number>(redis, 'tell-probe', 2);
  const key = fleetKey(queue);
  const outage = createOutageLog(logger, {
    message: 'workers cannot tell each other what they know about the gateways',
    endMessage: 'workers tell each other again what they know about the gateways',
  });
  let standing: FleetWatch['standing'];
  let isSpeaking = false;
  let speaksAgain = false;
  let isClosed = false;
  let timer: NodeJS.Timeout | undefined;

  /** Never rejects. */
  async function speak(): Promise<void> {
    speaksAgain = isSpeaking;
    if (isSpeaking || isClosed) return;
    isSpeaking = true;
    clearTimeout(timer);
    try {
      if (redis.status === 'ready') await exchange();
    } catch (error) {
      failed(error);
    } finally {
      isSpeaking = false;
      const isLate = speaksAgain;
      speaksAgain = false;
      const turnMs = isDown() && hasOthers() ? INTERVAL_WHEN_DOWN_MS : INTERVAL_MS;
      if (!isClosed) timer = setTimeout(speakNow, isLate ? 0 : turnMs).unref();
    }
  }

  async function exchange(): Promise<void> {
    const askedAtMs = performance.now();
    const [isWritten, ...flat] = await shareFleet(key, workerId, report(), FLEET_TTL_MS);
    if (isClosed) return;
    const heard: OtherWorker[] = [];
    let rank = 0;
    for (let i = 0; i < flat.length; i += 3) {
      if (String(flat[i]) < workerId) rank += 1;
      heard.push({ text: String(flat[i + 1]), agoMs: Number(flat[i + 2]) });
    }
    // While Redis takes no notes, the others are silent and not gone.
    if (isWritten === 1 || standing === undefined) standing = { rank, workers: heard.length + 1 };
    onHeard(heard, askedAtMs);
    outage.ended();
  }

  function failed(error: unknown): void {
    const failure =
      error instanceof Error ? explainRedisError(error) : { code: 'unexpected', detail: describeError(error) };
    // redis.ts logs a lost connection.
    if (failure.code !== 'unreachable') outage.failed(failure);
  }

  async function ask(gateway: GatewayName, limitMs: number): Promise<ProbeReply> {
    if (redis.status !== 'ready') return { kind: 'unknown' };
    try {
      const asked = takeProbe(...probeKeys(gateway), workerId, Math.ceil(limitMs));
      const reply = await within(performance.now() + ASK_MS, asked);
      if (reply === undefined) {
        // Nobody knows of a right that comes now, and no worker would have it for as long as a probe may take.
        asked.then(([isGranted]) => isGranted === 1 && tell(gateway, { pauseMs: 0 })).catch(() => undefined);
        return { kind: 'unknown' };
      }
      const [isGranted, forMs, newNotTaken, agoMs] = reply;
      const counts = { newNotTaken, newSentAgoMs: agoMs < 0 ? Number.POSITIVE_INFINITY : agoMs };
      return isGranted === 1 ? { kind: 'granted', ...counts } : { kind: 'held', forMs, ...counts };
    } catch (error) {
      failed(error);
      return { kind: 'unknown' };
    }
  }

  function tell(
    gateway: GatewayName,
    { pauseMs = -1, sentNew = false, notTaken = false }: Parameters<ProbeRight['tell']>[0],
  ): void {
    send(() => tellProbe(...probeKeys(gateway), workerId, Math.ceil(pauseMs), sentNew ? 1 : 0, notTaken ? 1 : 0));
  }

  const probeKeys = (gateway: GatewayName) => [probeKey(queue, gateway), probeKey(queue, `${gateway}:new`)] as const;

  const hasOthers = () => standing === undefined || standing.workers > 1;

  /** Sends a command whose loss costs little. */
  function send(command: () => Promise<unknown>): void {
    if (redis.status === 'ready' && hasOthers()) command().catch(failed);
  }

  /** `speak` never rejects. */
  const speakNow = () => void speak();
  redis.on('ready', speakNow);
  queueMicrotask(speakNow);

  return {
    get standing() {
      return standing;
    },
    speak: speakNow,
    probeRight: (gateway) => ({
      get hasOthers() {
        return hasOthers();
      },
      ask: (limitMs) => (hasOthers() ? ask(gateway, limitMs) : undefined),
      tell: (change) => tell(gateway, change),
      end: () => send(() => redis.del(...probeKeys(gateway))),
    }),
    async close() {
      isClosed = true;
      clearTimeout(timer);
      redis.off('ready', speakNow);
      if (redis.status !== 'ready') return;
      const removed = redis.hdel(key, workerId).catch(() => undefined);
      await within(performance.now() + ASK_MS, removed);
    },
  };
}
