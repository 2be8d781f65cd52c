import { isPath } from '../process/addresses.ts';

/**
 * Which setting keeps a process from listening, in a sentence that starts with its name. Undefined when it is none: then the
 * error is unexpected.
 * @param portSetting the name of the setting that the port is from
 */
export function listenFault(
  { host, port }: { readonly host: string; readonly port: number },
  { code }: NodeJS.ErrnoException,
  portSetting: 'PORT' | 'WORKER_PORT',
): string | undefined {
  const sentence = isPath(host) ? atSocket(host, code) : atPort(host, port, portSetting, code);
  return sentence && `${sentence} (${code})`;
}

function atSocket(path: string, code: string | undefined): string | undefined {
  if (code === 'EADDRINUSE') return `HOST is taken: another process listens at ${path}`;
  // Node reports a missing directory as EACCES, too.
  if (code === 'EACCES') return `HOST must be in an existing directory that this process may write: ${path}`;
  if (code === 'EINVAL') return `HOST must be a shorter path: ${path}`;
  return undefined;
}

function atPort(host: string, port: number, portSetting: string, code: string | undefined): string | undefined {
  if (code === 'EADDRINUSE') return `${portSetting} is taken: another process listens at ${host}, port ${port}`;
  if (code === 'EACCES') return `${portSetting} ${port} must be one that this process may use`;
  if (code === 'EADDRNOTAVAIL' || code === 'EINVAL') return `HOST must be an address of this machine: ${host}`;
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') return `HOST must be a name that resolves to an address: ${host}`;
  return undefined;
}
