import type { RequestHandler } from 'express';
import type { Credentials } from '../../config.ts';
import type { Logger } from '../../process/logger.ts';
import { loginGuard } from '../login-guard.ts';

/** The scheme's name has no case (RFC 9110, 11.1). */
const BASIC = /^basic +([^ ]+) *$/i;

/** Admits the operator, by HTTP basic auth. @throws as {@link loginGuard} does */
export function operatorAuth({ user, password }: Credentials, logger: Logger): RequestHandler {
  const login = {
    challenge: 'Basic realm="Payrelay", charset="UTF-8"',
    expected: `${user}:${password}`,
    read: (authorization: string) => Buffer.from(BASIC.exec(authorization)?.[1] ?? '', 'base64'),
    fault: 'wrong user or password',
  };
  return loginGuard(login, logger);
}
