import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import type { Config } from '../../src/config.ts';
import type { AppDeps } from '../../src/http/app.ts';
import { createDocument, type OpenApiDocument } from '../../src/http/openapi/document.ts';
import { createOperatorRoutes, type OperatorDeps } from '../../src/http/operator/routes.ts';
import { createRoutes, type Route } from '../../src/http/routes.ts';
import { recordingLogger } from './logger.ts';

/** One response, with the request that it is for. */
export interface Exchange {
  readonly method: string;
  /** With or without a query. */
  readonly path: string;
  readonly status: number;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, unknown>>;
  readonly text: string;
}

interface Described {
  readonly $ref?: string;
  readonly headers?: Readonly<Record<string, { readonly required?: boolean; readonly schema: object }>>;
  readonly content?: Readonly<Record<string, { readonly schema?: JsonSchema }>>;
}

interface JsonSchema {
  readonly $ref?: string;
  readonly oneOf?: readonly JsonSchema[];
  readonly properties?: { readonly error?: { readonly enum?: readonly string[]; readonly const?: string } };
}

interface Operation {
  readonly operationId: string;
  readonly 'x-paths-below'?: boolean;
  readonly responses: Readonly<Record<string, Described>>;
}

/** Every route of an API with this configuration, those of its operator included. */
export function routesOf(deps: AppDeps & OperatorDeps): readonly Route[] {
  return createRoutes(deps, deps.config.dashboard ? createOperatorRoutes(deps) : []);
}

/** The document of an API with this configuration. To make routes asks nothing of what they stand on. */
export function documentOf(config: Config): OpenApiDocument {
  const deps = { config: config.http, metricsToken: config.metricsToken, logger: recordingLogger().logger };
  return createDocument(routesOf(deps as unknown as AppDeps & OperatorDeps), config.http);
}

/** A response that a document lists: one for each status, media type and error code. */
export interface Documented {
  /** `other` for the responses of `x-other-requests`. */
  readonly operationId: string;
  readonly method: string;
  /** Without its parameters. */
  readonly path: string;
  readonly status: number;
  /** The error code, else the media type; empty without a body. */
  readonly kind: string;
}

/** Everything that the document lists. */
export function documentedResponses(document: OpenApiDocument): Documented[] {
  const operations = [
    ...Object.entries(document.paths).flatMap(([path, item]) =>
      Object.entries(item).map(([method, operation]) => ({ method, path, ...(operation as unknown as Operation) })),
    ),
    { method: '', path: '', ...otherRequests(document) },
  ];
  return operations.flatMap(({ operationId, method, path, responses }) =>
    Object.entries(responses).flatMap(([status, response]) =>
      kindsOf(resolved(document, response)).map((kind) => ({
        operationId,
        method: method.toUpperCase(),
        path,
        status: Number(status),
        kind,
      })),
    ),
  );
}

function kindsOf({ content = {} }: Described): string[] {
  const kinds = Object.entries(content).flatMap(([type, { schema = {} }]) => {
    const codes = (schema.oneOf ?? [schema]).flatMap(({ $ref, properties: { error } = {} }) =>
      $ref?.endsWith('/InvalidRequest') ? ['invalid_request'] : (error?.enum ?? []),
    );
    return codes.length > 0 ? codes : [type];
  });
  return kinds.length > 0 ? kinds : [''];
}

/** By the text of the document, because most tests have the same settings and compiling schemas takes time. */
const checks = new Map<string, (exchange: Exchange) => string | undefined>();

/** @returns says why the document does not describe a response; undefined when it does */
export function documentCheck(document: OpenApiDocument): (exchange: Exchange) => string | undefined {
  const text = JSON.stringify(document);
  const check = checks.get(text) ?? createCheck(document);
  checks.set(text, check);
  return check;
}

function createCheck(document: OpenApiDocument): (exchange: Exchange) => string | undefined {
  // OpenAPI has keywords of its own.
  const ajv = new Ajv2020({ strict: false, allErrors: true, coerceTypes: false });
  addFormats.default(ajv);
  const closed = withoutOtherFields(document) as OpenApiDocument;
  ajv.addSchema(closed, 'openapi.json');
  const compiled = new Map<object, ValidateFunction>();
  const faultOf = (schema: object, value: unknown): string | undefined => {
    const validate = compiled.get(schema) ?? ajv.compile(inDocument(schema) as object);
    compiled.set(schema, validate);
    return validate(value) ? undefined : ajv.errorsText(validate.errors, { dataVar: 'body' });
  };

  return (exchange) => {
    const { method, status, headers, text } = exchange;
    const operation = operationOf(closed, exchange);
    const described = operation.responses[status];
    if (described === undefined) return `${operation.operationId} has no ${status}`;
    const { headers: documented = {}, content = {} } = resolved(closed, described);
    for (const [name, { required, schema }] of Object.entries(documented)) {
      const value = headers[name.toLowerCase()];
      if (value === undefined && required) return `the header ${name} is missing`;
      const fault = value === undefined ? undefined : faultOf(schema, /^\d+$/.test(`${value}`) ? Number(value) : value);
      if (fault !== undefined) return `the header ${name}: ${fault}`;
    }
    const type = String(headers['content-type'] ?? '').replace(/;.*/, '');
    const media = content[type] ?? content['*/*'];
    if (media === undefined)
      return type === '' && text === '' ? undefined : `${status} has no body of the type ${type}`;
    if (media.schema === undefined || method === 'HEAD') return undefined;
    return faultOf(media.schema, type === 'application/json' ? JSON.parse(text) : text);
  };
}

/** The operation of a request, found as Express finds its route: without case, with or without a slash at the end. */
function operationOf(document: OpenApiDocument, { method, path }: Exchange): Operation {
  const name = path.replace(/[?#].*/, '').toLowerCase();
  for (const [template, item] of Object.entries(document.paths)) {
    const operations = item as unknown as Record<string, Operation>;
    const areBelow = Object.values(operations).some((operation) => operation['x-paths-below']);
    const pattern = template.toLowerCase().replace(/\{\w+\}/g, '[^/]+') + (areBelow ? '(/.*)?' : '/?');
    if (!new RegExp(`^${pattern}$`).test(name)) continue;
    const operation = operations[method === 'HEAD' ? 'get' : method.toLowerCase()];
    if (operation !== undefined) return operation;
    // The guards of a mount come before its methods.
    if (areBelow && operations['put'] !== undefined) return operations['put'];
  }
  return otherRequests(document);
}

function otherRequests(document: OpenApiDocument): Operation {
  return { operationId: 'other', responses: document['x-other-requests'] as Operation['responses'] };
}

function resolved(document: OpenApiDocument, response: Described): Described {
  if (response.$ref === undefined) return response;
  const { responses } = document['components'] as { responses: Record<string, Described> };
  return responses[response.$ref.replace(/^.*\//, '')]!;
}

/** A copy whose objects may have no other fields: to clients the document says that later versions may add some. */
function withoutOtherFields(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutOtherFields);
  if (typeof value !== 'object' || value === null) return value;
  const copy = Object.fromEntries(Object.entries(value).map(([name, part]) => [name, withoutOtherFields(part)]));
  return 'properties' in copy && !('additionalProperties' in copy) ? { ...copy, additionalProperties: false } : copy;
}

/** A copy of a part of the document that stands alone: its references name the document. */
function inDocument(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(inDocument);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, part]) => [name, name === '$ref' ? `openapi.json${part}` : inDocument(part)]),
  );
}
