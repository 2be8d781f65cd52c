import type { GatewayName } from '../payment.ts';
import { GATEWAYS } from '../telemetry/labels.ts';
import type { GatewayDown } from './gateway.ts';

/**
 * What workers tell each other about the gateways, and what each of them believes of it.
 *
 * A worker tells what its *own* attempts have shown, never what it has heard. It believes:
 * - **A payment made elsewhere** more than anything else: the gateway works. A worker whose own attempts failed sends one of
 *   its payments to see for itself, and releases the others only when that is paid.
 * - **An open circuit elsewhere**, while no worker has paid there since it opened, and while the listener has paid nothing
 *   there itself for {@link BELIEVES_ITSELF_MS}.
 * - **Nothing of a worker that fails alone**: its probes failed while others paid.
 *
 * Ages travel, never times: Redis' clock measures how long ago a worker spoke, and the worker how long before that it saw
 * something. So no clock of a machine is compared with another.
 */
export type Told = Readonly<Record<GatewayName, ToldOfGateway>>;

export interface ToldOfGateway {
  /** How long ago this worker last paid here, in ms. Undefined: never. */
  readonly paidAgoMs?: number;
  /** Its circuit was opened by its own attempts. */
  readonly open?: Pick<GatewayDown, 'code' | 'detail' | 'evidence'> & { readonly agoMs: number };
  /** Its circuit is open by what it has heard. */
  readonly hasHeard?: boolean;
  readonly failsAlone?: boolean;
}

/** What another live worker has told, and how long ago by Redis' clock. */
export interface FromAnother {
  readonly agoMs: number;
  readonly text: string;
}

/** What all other workers together say of one gateway. Times are in ms of `performance.now()`. */
export interface Heard {
  /** The last payment there. -Infinity: none is known. */
  readonly paidAtMs: number;
  /** Why it is down, by the worker that said so first. Undefined: nobody says so, or a later payment refutes it. */
  readonly down: GatewayDown | undefined;
  /** Another worker could use the gateway: its circuit is closed, and it does not fail alone. */
  readonly hasWitness: boolean;
}

/** So long after a payment of its own a worker takes no other's word that the gateway is down. */
export const BELIEVES_ITSELF_MS = 2_000;

/**
 * A payment refutes a failure when it is later by this much. It covers the way of a message, and responses to requests that
 * were sent before the gateway went down.
 */
export const LATER_BY_MS = 100;

/** @param nowMs when the reports were asked for, in ms of `performance.now()` */
export function hear(others: readonly FromAnother[], nowMs: number): Readonly<Record<GatewayName, Heard>> {
  const told = others.map(({ agoMs, text }) => ({ told: parseTold(text), atMs: nowMs - agoMs }));
  const isAlone = (one: Told) => GATEWAYS.some((gateway) => one[gateway].failsAlone);
  const of = (gateway: GatewayName): Heard => {
    const each = told.map(({ told: one, atMs }) => ({ ...one[gateway], atMs, isAlone: isAlone(one) }));
    const paidAtMs = Math.max(...each.map(({ paidAgoMs = Number.POSITIVE_INFINITY, atMs }) => atMs - paidAgoMs));
    const opened = each.flatMap(({ open, failsAlone, atMs }) =>
      open && !failsAlone ? [{ ...open, atMs: atMs - open.agoMs }] : [],
    );
    // Payments of long ago refute nothing: by now the gateway may be down.
    const refutedBeforeMs = nowMs - paidAtMs <= BELIEVES_ITSELF_MS ? paidAtMs - LATER_BY_MS : Number.NEGATIVE_INFINITY;
    const [first] = opened.filter(({ atMs }) => atMs >= refutedBeforeMs).sort((a, b) => a.atMs - b.atMs);
    return {
      paidAtMs,
      down: first && {
        code: first.code,
        detail: first.detail,
        evidence: first.evidence,
        since: new Date(Date.now() - (nowMs - first.atMs)),
      },
      hasWitness: each.some(({ open, hasHeard, isAlone: alone }) => open === undefined && !hasHeard && !alone),
    };
  };
  return { primary: of('primary'), fallback: of('fallback') };
}

/** What the own attempts of a worker have shown. Times are in ms of `performance.now()`. */
export function tell({
  cause,
  openedAtMs,
  lastPaidAtMs,
  alone,
}: {
  cause: GatewayDown | undefined;
  /** Undefined: it has not been opened by its own attempts. */
  openedAtMs: number | undefined;
  lastPaidAtMs: number;
  alone: unknown;
}): ToldOfGateway {
  const nowMs = performance.now();
  const agoMs = (atMs: number) => Math.round(nowMs - atMs);
  return {
    ...(lastPaidAtMs > 0 && { paidAgoMs: agoMs(lastPaidAtMs) }),
    ...(cause &&
      openedAtMs !== undefined && {
        open: { code: cause.code, detail: cause.detail, evidence: cause.evidence, agoMs: agoMs(openedAtMs) },
      }),
    ...(cause && openedAtMs === undefined && { hasHeard: true }),
    ...(alone !== undefined && { failsAlone: true }),
  };
}

const EVIDENCE: readonly unknown[] = ['not_sent', 'no_response', 'response'];

/** Another version may have written it, so what is not understood says nothing. */
function parseTold(text: string): Told {
  const { primary, fallback } = parseJson(text);
  return { primary: ofGateway(primary), fallback: ofGateway(fallback) };
}

function ofGateway(value: unknown): ToldOfGateway {
  const { paidAgoMs, open, hasHeard, failsAlone } = asFields(value);
  const { code, detail, evidence, agoMs } = asFields(open);
  const isOpen = typeof code === 'string' && typeof detail === 'string' && typeof agoMs === 'number';
  return {
    ...(typeof paidAgoMs === 'number' && { paidAgoMs }),
    ...(isOpen &&
      EVIDENCE.includes(evidence) && { open: { code, detail, evidence: evidence as GatewayDown['evidence'], agoMs } }),
    ...(hasHeard === true && { hasHeard }),
    ...(failsAlone === true && { failsAlone }),
  };
}

function parseJson(text: string): Fields {
  try {
    return asFields(JSON.parse(text));
  } catch {
    return {};
  }
}

type Fields = Readonly<Record<string, unknown>>;

function asFields(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {};
}
