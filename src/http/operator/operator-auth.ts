import type { RequestHandler, Response } from 'express';
import type { Credentials } from '../../config.ts';
import { ForbiddenError } from '../../errors.ts';
import type { Logger } from '../../process/logger.ts';
import { loginGuard } from '../login-guard.ts';

/** Who may use the routes for the operator. */
export interface OperatorLogins {
  /** May look and act. */
  readonly operator: Credentials;
  /** May look. Undefined: there is no such login. */
  readonly viewer?: Credentials | undefined;
}

/** The scheme's name has no case (RFC 9110, 11.1). */
const BASIC = /^basic +([^ ]+) *$/i;

/**
 * Admits the operator, and the viewer to what changes nothing, by HTTP basic auth. Routes find the user in
 * `response.locals['operator']`.
 * @throws ForbiddenError for a change by the viewer; otherwise as {@link loginGuard} does
 */
export function operatorAuth({ operator, viewer }: OperatorLogins, logger: Logger): RequestHandler {
  const logins = viewer === undefined ? [operator] : [operator, viewer];
  const login = {
    challenge: 'Basic realm="Payrelay", charset="UTF-8"',
    expected: logins.map(({ user, password }) => `${user}:${password}`),
    read: (authorization: string) => Buffer.from(BASIC.exec(authorization)?.[1] ?? '', 'base64'),
    fault: 'wrong user or password',
  };
  return loginGuard(login, logger, (index, { method }, response) => {
    response.locals['operator'] = logins[index]!.user;
    response.locals['mayAct'] = logins[index] === operator;
    if (!mayAct(response) && method !== 'GET' && method !== 'HEAD') {
      throw new ForbiddenError('a viewer tried to change something', {
        details: { message: 'This login may look, not act. Changes need the login of DASHBOARD_USER.' },
      });
    }
  });
}

/** Whether the user of this request may change something, for pages that then show no button. */
export function mayAct({ locals }: Pick<Response, 'locals'>): boolean {
  return locals['mayAct'] === true;
}
