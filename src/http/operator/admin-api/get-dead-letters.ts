import type { RequestHandler } from 'express';
import { listDeadLetters } from '../../../operations/dead-letter-list.ts';
import { parseListQuery } from '../../../operations/dead-letter-query.ts';
import type { OperatorDeps } from '../routes.ts';

/** `GET /admin/api/dead-letters`: open dead letters by pages, the newest first, and how many fit the filter. */
export function getDeadLetters({ openDeadLetters }: Pick<OperatorDeps, 'openDeadLetters'>): RequestHandler {
  return async ({ query }, response) => {
    response.json(await listDeadLetters(parseListQuery(query), openDeadLetters));
  };
}
