import { existsSync, globSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { PAYMENT_STATES, REASON_CODES } from '../../src/operations/payment-reason.ts';
import { PROBLEM_CODES } from '../../src/telemetry/labels.ts';
import { readRules } from '../support/observability.ts';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));

/** The limit of STYLE for the page that everybody reads first. */
const README_WORDS = 1_300;

const documents = globSync('**/*.md', { cwd: PROJECT, exclude: (path) => /^(node_modules|\.git)$/.test(path) });

/** The text without code, in which brackets are no links and # is no heading. */
function prose(path: string): string {
  return readFileSync(join(PROJECT, path), 'utf8').replace(/^(```|~~~)[\s\S]*?^\1/gm, '');
}

function headings(path: string): string[] {
  return [...prose(path).matchAll(/^#+ (.*)$/gm)].map(([, heading]) => heading!);
}

/** As GitHub makes an anchor of a heading; a repeated one gets a number. */
function anchorsOf(path: string): Set<string> {
  const seen = new Map<string, number>();
  const anchors = headings(path).map((heading) => {
    const anchor = heading
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-');
    const count = seen.get(anchor) ?? 0;
    seen.set(anchor, count + 1);
    return count === 0 ? anchor : `${anchor}-${count}`;
  });
  return new Set(anchors);
}

/** Targets of links and images that lead to a file of the repository or to a heading. */
function linksOf(path: string): string[] {
  const text = prose(path).replace(/`[^`\n]*`/g, (code) => code.replace(/[[\]]/g, ' '));
  const inline = [...text.matchAll(/\]\(\s*<?([^\s)>]+)>?[^)]*\)/g)].map(([, target]) => target!);
  const references = [...text.matchAll(/^\[[^\]]+\]:\s+(\S+)/gm)].map(([, target]) => target!);
  return [...inline, ...references].filter((target) => !/^[a-z][a-z0-9+.-]*:/i.test(target));
}

/** Why a link leads nowhere; undefined when it leads somewhere. */
function faultOf(document: string, link: string): string | undefined {
  const [file, anchor] = link.split('#').map(decodeURIComponent) as [string, string | undefined];
  const target = file === '' ? document : relative(PROJECT, resolve(PROJECT, dirname(document), file));
  const path = join(PROJECT, target);
  if (target.startsWith('..') || !existsSync(path)) return `${document}: ${link} does not exist`;
  if (anchor === undefined) return undefined;
  if (!target.endsWith('.md') || !statSync(path).isFile()) return undefined;
  return anchorsOf(target).has(anchor) ? undefined : `${document}: ${link} is no heading there`;
}

/** Code of a document, in blocks and in lines. */
function codeOf(path: string): string[] {
  const text = readFileSync(join(PROJECT, path), 'utf8');
  return [...text.matchAll(/^```[\s\S]*?^```|`[^`\n]+`/gm)].map(([code]) => code);
}

const makefile = readFileSync(join(PROJECT, 'Makefile'), 'utf8');
const targets = [...makefile.matchAll(/^([a-z][a-z-]*):/gm)].map(([, name]) => name!);

describe('make help', () => {
  it('lists every target', () => {
    const listed = [...makefile.matchAll(/^([a-z-]+):.*## \S/gm)].map(([, name]) => name);
    expect(listed).to.deep.equal(targets);
  });
});

describe('the documents', () => {
  it('link only to files and headings that exist', () => {
    const links = documents.flatMap((document) => linksOf(document).map((link) => ({ document, link })));
    expect(links.length).to.be.above(50);
    expect(links.map(({ document, link }) => faultOf(document, link)).filter(Boolean)).to.deep.equal([]);
  });

  it('are all reachable from the README', () => {
    const reached = new Set(['README.md']);
    for (const document of reached) {
      for (const link of linksOf(document)) {
        const target = relative(PROJECT, resolve(PROJECT, dirname(document), link.split('#')[0]!));
        if (documents.includes(target)) reached.add(target);
      }
    }
    const apart = ['test/support/tls/README.md'];
    expect(documents.filter((document) => !reached.has(document) && !apart.includes(document))).to.deep.equal([]);
  });

  it('name only commands that exist', () => {
    const { scripts } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8')) as { scripts: object };
    const exist = new Set([
      ...targets.map((name) => `make ${name}`),
      ...Object.keys(scripts).map((name) => `npm run ${name}`),
    ]);
    const named = documents.flatMap((document) =>
      codeOf(document).flatMap((code) =>
        [...code.matchAll(/\b(?:make|npm run) [a-z][a-z:-]*/g)].map(([command]) => ({ document, command })),
      ),
    );
    expect(named.length).to.be.above(30);
    expect(named.filter(({ command }) => !exist.has(command))).to.deep.equal([]);
  });

  it('quote log lines as the code has them', () => {
    const [, section] = /^## The log\n([\s\S]*?)^## /m.exec(readFileSync(join(PROJECT, 'docs/operating.md'), 'utf8'))!;
    const lines = [...section!.matchAll(/^\| ([^|]*`[^|]*) \|/gm)].flatMap(([, cell]) =>
      [...cell!.replace(/\([^)]*\)/g, '').matchAll(/`([^`]+)`/g)].map(([, line]) => line!),
    );
    const source = globSync('src/**/*.ts', { cwd: PROJECT }).map((path) => readFileSync(join(PROJECT, path), 'utf8'));
    expect(lines).to.have.length.above(5);
    expect(lines.filter((line) => !source.some((text) => text.includes(line)))).to.deep.equal([]);
  });

  it('describe every setting of .env.example', () => {
    const [services] = readFileSync(join(PROJECT, '.env.example'), 'utf8').split('# ---- Compose only');
    const settings = [...services!.matchAll(/^#([A-Z][A-Z0-9_]*)=/gm)].map(([, name]) => name!);
    const page = readFileSync(join(PROJECT, 'docs/operating.md'), 'utf8');
    expect(settings.length).to.be.above(20);
    expect(settings.filter((name) => !new RegExp(`\\b${name}\\b`).test(page))).to.deep.equal([]);
  });

  it('have a line for every code of an error response, and for no other', () => {
    const read = (path: string) => readFileSync(join(PROJECT, path), 'utf8');
    const nginx = read('docker/nginx.server.conf');
    const codes = [
      ...`${read('src/errors.ts')}${read('src/http/connections.ts')}`.matchAll(/code(?: =|:) '([a-z_]+)'/g),
      ...nginx.matchAll(/"error":"([a-z_]+)"/g),
      ...nginx.match(/^map \$status \$own_code \{[^}]*\}/m)![0].matchAll(/^ +\d{3} ([a-z_]+);$/gm),
    ].map(([, code]) => code);
    const lines = read('docs/errors.md').matchAll(/^\| `([a-z_]+)` \| \d{3} \|/gm);
    expect([...lines].map(([, code]) => code)).to.have.members([...new Set(codes)]);
  });

  it('have a heading in the runbook for every alert and every problem of /health, and for no other', () => {
    const { alerts } = readRules();
    const links = alerts.map(({ annotations }) => annotations.runbook_url);
    expect(links.map((link) => faultOf('README.md', link)).filter(Boolean)).to.deep.equal([]);
    const named = headings('docs/runbook.md')
      .slice(1)
      .map((heading) => /^(\w+)(?: \((.*)\))?$/.exec(heading)!);
    expect(named.map(([, alert]) => alert)).to.have.members(alerts.map(({ alert }) => alert));
    expect(named.flatMap(([, , codes]) => codes?.split(', ') ?? [])).to.have.members(PROBLEM_CODES);
    // The link of each alert leads to its own heading.
    for (const { alert, annotations } of alerts) {
      expect(annotations.runbook_url).to.match(new RegExp(`#${alert.toLowerCase()}(-|$)`));
    }
  });

  it('have a line for every state and reason of a payment, and for no other', () => {
    const [, section] = /^## The status of a payment\n([\s\S]*?)^## /m.exec(
      readFileSync(join(PROJECT, 'docs/api.md'), 'utf8'),
    )!;
    const [states, reasons] = ['state', 'reason'].map((column) => {
      const [, table] = new RegExp(`^\\| \`${column}\` \\|.*\\n((?:\\|.*\\n)+)`, 'm').exec(section!)!;
      return [...table!.matchAll(/^\| ([^|]+) \|/gm)].flatMap(([, cell]) =>
        [...cell!.matchAll(/`(\w+)`/g)].map(([, name]) => name!),
      );
    });
    expect(states).to.deep.equal(PAYMENT_STATES);
    expect(reasons).to.have.members(REASON_CODES);
  });

  it('begin with a README that is read in five minutes', () => {
    const words = readFileSync(join(PROJECT, 'README.md'), 'utf8').split(/\s+/).filter(Boolean);
    expect(words.length).to.be.at.most(README_WORDS);
  });
});
