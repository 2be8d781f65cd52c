import { randomUUID } from 'node:crypto';
import { ConflictError, NotFoundError } from '../errors.ts';
import type { DeadLetterFilter } from '../ledger/dead-letter-filter.ts';
import type { DeadLetterCode } from '../ledger/dead-letters.ts';
import type { OpenDeadLetters } from '../ledger/open-dead-letters.ts';
import type { OperatorAction, OperatorActions } from '../ledger/operator-actions.ts';
import type { GatewayName } from '../payment.ts';
import { countOf, type DeadLetterVerb, type Skipped } from './dead-letter-verdicts.ts';
import type { Trail } from './trail.ts';

/** What operators do with many dead letters: an action that a worker carries out (action-runner.ts). */

const PREFIX = 'dead_letters.';

/** The verb of an action, undefined for an action that is not about many dead letters. */
export function verbOf({ action }: Pick<OperatorAction, 'action'>): DeadLetterVerb | undefined {
  if (action === `${PREFIX}retry`) return 'retry';
  return action === `${PREFIX}discard` ? 'discard' : undefined;
}

/** The filter as it is in the row of the action. */
type StoredFilter = Readonly<Record<'reason' | 'gateway' | 'from' | 'to', string | undefined>> & {
  readonly ids?: readonly string[];
};

interface Target {
  readonly filter: StoredFilter;
  /** Letters that fitted when the action began; missing when there were too many to count. */
  readonly letters?: number;
}

/** How far an action is, as its row has it. */
export interface Progress {
  readonly done: number;
  readonly skipped: Skipped;
  /** Why it does not go on now. */
  readonly waiting?: { readonly code: string; readonly detail: string; readonly since: string };
}

/** An action as operators see it. */
export interface ShownAction {
  readonly id: string;
  readonly action: string;
  readonly who: string;
  /** When it was asked for. */
  readonly at: string;
  readonly reason?: string;
  readonly target: OperatorAction['target'];
  readonly state: OperatorAction['state'];
  readonly endedAt?: string;
  /** What came of an action that was done at once, or how one that takes long ended. */
  readonly outcome?: OperatorAction['outcome'];
  /** Of an action that takes long. */
  readonly perSecond?: number;
  readonly progress?: Progress;
  /** Letters that it has not reached. Missing when there were too many to count. */
  readonly remaining?: number;
  /** Letters a second since it began, in the mean. */
  readonly rate?: number;
}

/** The most ids of an action. More need a filter. */
export const MAX_IDS = 1_000;

export interface StartOptions {
  readonly who: string;
  readonly reason: string;
  /** At least 1. */
  readonly perSecond: number;
}

/**
 * Starts an action over the letters that fit now. Its row in the trail is what starts it.
 *
 * It ends: no letter that dies from now on fits, also none of those that it retries, and each row is visited once.
 * @throws LedgerUnavailableError after which it may have been started
 */
export async function startDeadLetterAction(
  verb: DeadLetterVerb,
  filter: DeadLetterFilter,
  { who, reason, perSecond }: StartOptions,
  { actions, openDeadLetters }: { actions: OperatorActions; openDeadLetters: Pick<OpenDeadLetters, 'count' | 'now'> },
): Promise<ShownAction> {
  const now = await openDeadLetters.now();
  const fixed = { ...filter, to: filter.to !== undefined && filter.to < now ? filter.to : now };
  const letters = filter.ids?.length ?? (await countAll(fixed, openDeadLetters));
  const target: Target = { filter: toStored(fixed), ...(letters !== undefined && { letters }) };
  const id = await actions.begin(
    { key: randomUUID(), at: new Date(), who, action: PREFIX + verb, target: { ...target }, reason },
    perSecond,
  );
  return findAction(id, actions);
}

/** @throws NotFoundError, LedgerUnavailableError */
export async function findAction(id: string, actions: Pick<OperatorActions, 'find'>): Promise<ShownAction> {
  const action = await actions.find(id);
  if (action === undefined) throw new NotFoundError(`no action has the id ${id}`);
  return shownAction(action);
}

/**
 * Stops an action that runs: its worker ends it within a second. The stop has a row of its own, and the action's says who
 * stopped it.
 * @throws NotFoundError, ConflictError when it does not run, LedgerUnavailableError
 */
export async function stopAction(
  id: string,
  { who, reason }: { who: string; reason: string | undefined },
  { actions, trail }: { actions: Pick<OperatorActions, 'find' | 'stop'>; trail: Pick<Trail, 'run'> },
): Promise<ShownAction> {
  const { action } = await findAction(id, actions);
  const isStopped = await trail.run({ who, action: 'action.stop', target: { id, action }, reason }, async () => {
    const result = await actions.stop(id, who);
    return { result, state: result ? 'done' : 'refused' };
  });
  if (!isStopped) throw new ConflictError('only an action that runs can be stopped');
  return findAction(id, actions);
}

function shownAction(action: OperatorAction): ShownAction {
  const { id, who, at, reason, target, state, outcome, endedAt, perSecond } = action;
  const isLong = perSecond !== undefined;
  const progress = isLong ? ((action.progress ?? { done: 0, skipped: {} }) as unknown as Progress) : undefined;
  return {
    id,
    action: action.action,
    who,
    at: at.toISOString(),
    ...(reason !== undefined && { reason }),
    target,
    state,
    ...(endedAt && { endedAt: endedAt.toISOString() }),
    ...(outcome && { outcome }),
    ...(isLong && { perSecond }),
    ...(progress && { progress, ...pace(action, progress) }),
  };
}

function pace({ at, endedAt, target }: OperatorAction, { done, skipped }: Progress) {
  const reached = done + countOf(skipped);
  // Its clock and that of the process that was asked may differ.
  const seconds = Math.max(1, (endedAt ?? new Date()).getTime() - at.getTime()) / 1_000;
  const { letters } = target as unknown as Target;
  return {
    ...(letters !== undefined && { remaining: Math.max(0, letters - reached) }),
    rate: Math.round((reached / seconds) * 10) / 10,
  };
}

/** The filter of an action, and the number of letters that fitted when it began, if they were counted. */
export function selectionOf({ target }: Pick<OperatorAction, 'target'>): {
  readonly filter: DeadLetterFilter & { readonly to: Date };
  readonly letters: number | undefined;
} {
  const { filter, letters } = target as unknown as Target;
  const { reason, gateway, from, to, ids } = filter;
  return {
    filter: {
      code: reason as DeadLetterCode | undefined,
      gateway: gateway as GatewayName | undefined,
      from: from === undefined ? undefined : new Date(from),
      to: new Date(to!),
      ids,
    },
    letters,
  };
}

function toStored({ code, gateway, from, to, ids }: DeadLetterFilter): StoredFilter {
  return { reason: code, gateway, from: from?.toISOString(), to: to?.toISOString(), ...(ids && { ids }) };
}

/** Undefined when there are too many to count. */
async function countAll(
  filter: DeadLetterFilter,
  openDeadLetters: Pick<OpenDeadLetters, 'count'>,
): Promise<number | undefined> {
  const { byCode, isComplete } = await openDeadLetters.count(filter);
  return isComplete ? Object.values(byCode).reduce((sum, count) => sum + count, 0) : undefined;
}
