import { readFileSync } from 'node:fs';
import tls from 'node:tls';
import { fileURLToPath } from 'node:url';
import { atTestEnd } from './cleanup.ts';

const file = (name: string) => fileURLToPath(new URL(`./tls/${name}`, import.meta.url));

/** The file of the authority that signed the test's certificates, for `NODE_EXTRA_CA_CERTS`. */
export const TEST_CA_FILE = file('ca.pem');

/** The options of a TLS server with one of the test's certificates (test/support/tls). */
export function testCertificate(name: 'localhost' | 'other-name' | 'self-signed'): { key: Buffer; cert: Buffer } {
  return { key: readFileSync(file(`${name}.key`)), cert: readFileSync(file(`${name}.pem`)) };
}

/** Makes this process trust the test's authority, until the test is over. */
export function trustTestCa(): void {
  const trusted = tls.getCACertificates('default');
  const authority = readFileSync(TEST_CA_FILE, 'utf8');
  if (trusted.includes(authority)) return;
  tls.setDefaultCACertificates([...trusted, authority]);
  atTestEnd(() => tls.setDefaultCACertificates(trusted));
}
