import { accessSync, constants } from 'node:fs';
import { isIP } from 'node:net';
import { type Setting, SettingFault } from './settings.ts';

/** An address to listen on: an IP address, a host name, or the path of a Unix socket. */
export function listenAddress(byDefault: string): Setting<string> {
  return {
    default: byDefault,
    parse(text) {
      if (isPath(text) || isIP(text) !== 0 || isHostName(text)) return text;
      throw new SettingFault('must be an IP address without brackets, a host name or the path of a Unix socket');
    },
  };
}

/** A server's host: an IP address, with or without brackets, a host name, or the path of a Unix socket. */
export function serverHost(byDefault: string): Setting<string> {
  return {
    default: byDefault,
    parse(text) {
      if (isPath(text) || isIP(withoutBrackets(text)) !== 0 || isHostName(text)) return text;
      throw new SettingFault('must be an IP address, a host name or the path of a Unix socket');
    },
    isPrivate: true,
  };
}

/** `host:port[,host:port…]`. */
export function hostPorts(): Setting<readonly { readonly host: string; readonly port: number }[]> {
  return {
    default: [],
    parse: (text) =>
      text.split(',').map((node) => {
        const match = /^\s*(\[[0-9a-fA-F:]+\]|[^\s:]+):(\d{1,5})\s*$/.exec(node);
        const port = Number(match?.[2]);
        if (!match || port < 1 || port > 65535) throw new SettingFault('must be host:port[,host:port…]');
        return { host: withoutBrackets(match[1]!), port };
      }),
    isPrivate: true,
  };
}

/** The base URL of an HTTP server. Paths are appended to it, so the slashes at its end are cut off. */
export function httpUrl(byDefault: string): Setting<string> {
  return {
    default: byDefault,
    parse(text) {
      parseUrl(text, ['http:', 'https:']);
      if (/[?#]/.test(text)) throw new SettingFault('must have no query and no fragment: paths are appended to it');
      if (/\s/.test(text)) throw new SettingFault('must have no white space in it');
      return text.replace(/\/+$/, '');
    },
    isPrivate: true,
  };
}

export function redisUrl(): Setting<string | undefined> {
  return {
    default: undefined,
    parse(text) {
      const { pathname, searchParams } = parseUrl(text, ['redis:', 'rediss:']);
      // ioredis takes the path for the database, selects it, and goes on in database 0 when Redis does not know it.
      if (!/^(\/\d*)?$/.test(pathname)) {
        throw new SettingFault('must name its database by a number, as in redis://localhost:6379/0');
      }
      // ioredis prefers each parameter to the option of the same name, and ours keep payments safe.
      if ([...searchParams.keys()].some((name) => name !== 'family')) {
        throw new SettingFault('must have no parameter except family, as in redis://localhost:6379/0?family=6');
      }
      return text;
    },
    isPrivate: true,
  };
}

export function postgresUrl(): Setting<string | undefined> {
  return {
    default: undefined,
    parse(text) {
      const { searchParams } = parseUrl(text, ['postgres:', 'postgresql:']);
      for (const [name, { known, value }] of tlsParameters(searchParams)) {
        if (!Object.hasOwn(known, value)) {
          throw new SettingFault(`must have as ${name} one of ${Object.keys(known).join(', ')}`);
        }
      }
      for (const name of CERTIFICATES) {
        const file = searchParams.get(name);
        if (file && !isReadable(file)) throw new SettingFault(`must name as ${name} a file that this process may read`);
      }
      return text;
    },
    isPrivate: true,
  };
}

/** @throws SettingFault */
function parseUrl(text: string, protocols: readonly string[]): URL {
  const url = URL.parse(text);
  const isKnown = protocols.some((protocol) => text.toLowerCase().startsWith(`${protocol}//`));
  if (url === null || !isKnown) {
    throw new SettingFault(`must be a URL starting with ${protocols.map((protocol) => `${protocol}//`).join(' or ')}`);
  }
  // A raw one of these ends the host early, and what follows it would be taken for a path and appear in the log.
  if (/^\w+:\/\/[^/?#]*[/?#].*@/s.test(text)) {
    throw new SettingFault('must write / ? # @ in user and password as %2F %3F %23 %40');
  }
  try {
    // The clients decode these parts when they connect, and would throw there.
    for (const part of [url.username, url.password, url.hostname, url.pathname]) decodeURIComponent(part);
  } catch {
    throw new SettingFault('must write a literal % as %25');
  }
  return url;
}

/** The parameters of a database's URL that name files. */
const CERTIFICATES = ['sslcert', 'sslkey', 'sslrootcert'] as const;

function isReadable(file: string): boolean {
  try {
    accessSync(file, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

type DatabaseTls = 'off' | 'unchecked' | 'checked';

/** How pg reads the sslmode of a URL. pg prefers it to the option that DB_SSL sets. */
const SSL_MODES: Readonly<Record<string, DatabaseTls>> = {
  disable: 'off',
  'no-verify': 'unchecked',
  prefer: 'checked',
  require: 'checked',
  'verify-ca': 'checked',
  'verify-full': 'checked',
};

/** The same for `ssl`, which counts where there is no sslmode. */
const SSL_SWITCHES: Readonly<Record<string, DatabaseTls>> = {
  '0': 'off',
  '1': 'checked',
  true: 'checked',
  'no-verify': 'unchecked',
};

interface TlsParameter {
  readonly known: Readonly<Record<string, DatabaseTls>>;
  readonly value: string;
}

/** The parameters by which the URL decides about TLS, the one that pg prefers first. */
function tlsParameters(searchParams: URLSearchParams): [name: string, parameter: TlsParameter][] {
  const found: [string, TlsParameter][] = [];
  for (const [name, known] of [
    ['sslmode', SSL_MODES],
    ['ssl', SSL_SWITCHES],
  ] as const) {
    // Of several pg takes the last.
    const value = searchParams.getAll(name).at(-1);
    // pg ignores an empty sslmode, but reads an empty ssl as "off".
    if (value === undefined || (value === '' && name === 'sslmode')) continue;
    found.push([name, { known, value }]);
  }
  return found;
}

/**
 * What the URL of a database says about TLS against `isWanted`, as in "whose sslmode turns TLS off". Undefined when the two
 * agree, or when the URL says nothing.
 * @param url As {@link postgresUrl} accepts it
 */
export function tlsContradiction(url: string, isWanted: boolean): string | undefined {
  const { searchParams } = new URL(url);
  const [first] = tlsParameters(searchParams);
  if (first !== undefined) {
    const [name, { known, value }] = first;
    const tls = known[value];
    if (isWanted ? tls === 'checked' : tls === 'off') return undefined;
    const says = !isWanted ? 'turns TLS on' : tls === 'off' ? 'turns TLS off' : 'does not check the certificate';
    return `whose ${name} ${says}`;
  }
  // A certificate in the URL turns TLS on as well.
  const hasCertificate = CERTIFICATES.some((name) => searchParams.has(name));
  return hasCertificate && !isWanted ? 'whose certificates turn TLS on' : undefined;
}

/** The part of a URL in front of its host. Empty without a password. */
export function credentials(user: string, password: string | undefined): string {
  return password === undefined ? '' : `${encodeURIComponent(user)}:${encodeURIComponent(password)}@`;
}

/** A host as a URL spells it. A path is the directory of a Unix socket, for PostgreSQL as for its own programs. */
export function hostInUrl(host: string): string {
  if (isPath(host)) return encodeURIComponent(host);
  return isIP(host) === 6 ? `[${host}]` : host;
}

export function isPath(host: string): boolean {
  return host.startsWith('/');
}

function withoutBrackets(host: string): string {
  return host.replace(/^\[(.*)\]$/, '$1');
}

/** Labels of letters, digits, `-` and `_`; a last label of digits alone would be half an IP address. */
function isHostName(text: string): boolean {
  return /^([\w-]+\.)*[\w-]*[a-z_-][\w-]*\.?$/i.test(text);
}
