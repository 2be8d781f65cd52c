import { readFileSync } from 'node:fs';
import tls from 'node:tls';
import { fileURLToPath } from 'node:url';
import { atTestEnd } from './cleanup.ts';

const file = (name: string) => fileURLToPath(new URL(`./tls/${name}`, import.meta.url));

/** The certificate of the authority that signed the tests' certificates, for `NODE_EXTRA_CA_CERTS`. */
export const TEST_CA_FILE = file('ca.pem');

/** The options of a TLS server with one of the test's certificates (test/support/tls). */
export function testCertificate(name: 'localhost' | 'other-name' | 'self-signed'): { key: Buffer; cert: Buffer } {
  return { key: readFileSync(file(`${name}.key`)), cert: readFileSync(file(`${name}.pem`)) };
}

/** The certificates trusted by default, kept while a test adds its own. */
let before: string[] | undefined;
let users = 0;

/** This process trusts the tests' authority until the last test that called this has ended. */
export function trustTestCa(): void {
  before ??= tls.getCACertificates('default');
  users += 1;
  if (users === 1) tls.setDefaultCACertificates([...before, readFileSync(TEST_CA_FILE, 'utf8')]);
  atTestEnd(() => {
    users -= 1;
    if (users === 0) tls.setDefaultCACertificates(before!);
  });
}
