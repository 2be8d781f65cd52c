import type { RequestHandler } from 'express';
import type { Logger } from '../process/logger.ts';
import { loginGuard } from './login-guard.ts';

/** The scheme's name has no case (RFC 9110, 11.1). */
const BEARER = /^bearer +([^ ]+) *$/i;

/** Admits a program that sends this token as `Authorization: Bearer …`. @throws as {@link loginGuard} does */
export function bearerAuth(token: string, logger: Logger): RequestHandler {
  const login = {
    challenge: 'Bearer realm="Payrelay"',
    expected: [token],
    read: (authorization: string) => BEARER.exec(authorization)?.[1] ?? '',
    fault: 'wrong token',
  };
  return loginGuard(login, logger);
}
