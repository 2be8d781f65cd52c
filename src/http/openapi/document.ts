import { createRequire } from 'node:module';
import type { Config } from '../../config.ts';
import type { Route } from '../routes.ts';
import { CONNECTION_ERRORS, ERROR_RESPONSES, type ErrorCode, errorResponses } from './errors.ts';
import { INTRODUCTION } from './introduction.ts';
import type { Operation, Schema } from './operation.ts';
import { createOperations } from './operations.ts';
import { SCHEMAS } from './schemas.ts';

const { version } = createRequire(import.meta.url)('../../../package.json') as { version: string };

export interface OpenApiDocument {
  readonly openapi: string;
  readonly paths: Readonly<Record<string, Readonly<Record<string, Schema>>>>;
  readonly [field: string]: unknown;
}

/** Which part of the API a tag is, in the order of the page. */
const TAGS = [
  { name: 'Payments', description: 'For clients.' },
  { name: 'Health', description: 'For load balancers and people.' },
  { name: 'Operator', description: 'For the people and programs that run the relay. Some exist only with a setting.' },
  { name: 'Documents', description: 'The API as a document and as a page.' },
] as const satisfies readonly { name: Operation['tag']; description: string }[];

const SECURITY_SCHEMES = {
  operator: {
    type: 'http',
    scheme: 'basic',
    description: '`DASHBOARD_USER` and `DASHBOARD_PASSWORD`; to look also those of the viewer.',
  },
  token: {
    type: 'http',
    scheme: 'bearer',
    description: '`STATUS_TOKEN` for the status of a payment, `METRICS_TOKEN` for metrics.',
  },
};

/**
 * OpenAPI 3.1 of these routes. Routes with one mount are one path, marked `x-paths-below`.
 * @throws an Error for a route without a description in operations.ts
 */
export function createDocument(routes: readonly Route[], config: Config['http']): OpenApiDocument {
  const operations = createOperations(config);
  const described = routes.map((route) => {
    const path = route.mount ?? route.path;
    const operation = operations[`${route.method} ${path}`];
    if (operation === undefined) throw new Error(`no description of ${route.method} ${path}`);
    return { route, operation, path: path.replace(/:(\w+)/g, '{$1}') };
  });
  const paths = [...Map.groupBy(described, ({ path }) => path)].map(([path, sharing]) => [
    path,
    Object.fromEntries(sharing.map(({ route, operation }) => [route.method.toLowerCase(), describe(route, operation)])),
  ]);
  const schemes = Object.entries(SECURITY_SCHEMES).filter(([name]) => routes.some((route) => guardOf(route) === name));
  return {
    openapi: '3.1.0',
    info: { title: 'Payrelay', version, description: INTRODUCTION, license: { name: 'MIT', identifier: 'MIT' } },
    servers: [{ url: '/' }],
    tags: TAGS.filter(({ name }) => described.some(({ operation }) => operation.tag === name)),
    paths: Object.fromEntries(paths),
    'x-other-requests': errorResponses(['not_found', 'method_not_allowed', ...CONNECTION_ERRORS]),
    components: {
      schemas: SCHEMAS,
      responses: ERROR_RESPONSES,
      ...(schemes.length > 0 && { securitySchemes: Object.fromEntries(schemes) }),
    },
  };
}

function describe(route: Route, operation: Operation): Schema {
  const { id, tag, summary, description, parameters, requestBody, responses, errors } = operation;
  const guard = guardOf(route);
  const codes = new Set([...errors, ...guardErrors(route), ...CONNECTION_ERRORS]);
  return {
    operationId: id,
    tags: [tag],
    summary,
    ...(description && { description }),
    ...(parameters && { parameters }),
    ...(requestBody && { requestBody }),
    ...(guard && { security: [{ [guard]: [] }] }),
    ...(route.mount !== undefined && { 'x-paths-below': true }),
    // What an operation says of a status itself takes precedence.
    responses: { ...errorResponses([...codes]), ...responses },
  };
}

function guardOf({ role, bearer }: Route): keyof typeof SECURITY_SCHEMES | undefined {
  if (role === 'operator') return 'operator';
  return bearer === undefined ? undefined : 'token';
}

/** What the router and the guards of a route respond with, see app.ts. */
function guardErrors(route: Route): readonly ErrorCode[] {
  return [
    // The router cannot decode the path.
    ...(/[:*]/.test(route.path) ? (['invalid_request'] as const) : []),
    ...(guardOf(route) === undefined ? [] : (['unauthorized', 'too_many_logins'] as const)),
    ...(route.from === 'own_pages' && route.changesState ? (['forbidden'] as const) : []),
    ...(route.changesState && (route.row ?? 'by_guard') === 'by_guard' ? (['ledger_unavailable'] as const) : []),
  ];
}
