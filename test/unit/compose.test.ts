import { existsSync, readFileSync } from 'node:fs';
import { expect } from 'chai';
import { parse } from 'yaml';

interface Service {
  image: string;
  profiles?: string[];
  build?: { target?: string };
  user?: string;
  read_only?: boolean;
  privileged?: boolean;
  cap_drop?: string[];
  cap_add?: string[];
  security_opt?: string[];
  pids_limit?: number;
  mem_limit?: string;
  volumes?: string[];
  ports?: string[];
  environment?: Record<string, unknown>;
  restart?: string;
  logging?: { options?: Record<string, string> };
  healthcheck?: { test?: string[]; disable?: boolean };
  command?: string[];
}

interface Stack {
  services: Record<string, Service>;
  volumes?: Record<string, unknown>;
}

function textOf(path: string): string {
  return readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
}

function stackOf(path: string): Stack {
  return parse(textOf(path), { merge: true });
}

/** A file laid over another one, as compose does it: a service keeps what the upper file does not name, setting by setting. */
function layered(lower: Stack, upper: Stack): Stack {
  const services = Object.entries(upper.services).map(([name, service]) => {
    const below = lower.services[name];
    return [name, { ...below, ...service, environment: { ...below?.environment, ...service.environment } }] as const;
  });
  return { services: { ...lower.services, ...Object.fromEntries(services) } };
}

const DEVELOPMENT = 'docker-compose.yml';
const PRODUCTION = 'docker/compose.production.yml';
const HIGHLY_AVAILABLE = 'docker/compose.ha.yml';
const STACKS: Readonly<Record<string, Stack>> = {
  ...Object.fromEntries(
    [DEVELOPMENT, PRODUCTION, 'rinha/compose.yml', 'rinha/compose.gateways.yml'].map((path) => [path, stackOf(path)]),
  ),
  [HIGHLY_AVAILABLE]: layered(stackOf(DEVELOPMENT), stackOf(HIGHLY_AVAILABLE)),
};

/** What the entrypoints of these images need before they become another user, and their init to pass signals on to that user. */
const RIGHTS: Readonly<Record<string, readonly string[]>> = {
  redis: ['CHOWN', 'DAC_READ_SEARCH', 'KILL', 'SETGID', 'SETPCAP', 'SETUID'],
  postgres: ['CHOWN', 'DAC_READ_SEARCH', 'FOWNER', 'KILL', 'SETGID', 'SETUID'],
};

/** Every service of every stack, with the name of its file. */
const all = Object.entries(STACKS).flatMap(([path, { services }]) =>
  Object.entries(services).map(([name, service]) => ({ where: `${path}: ${name}`, name, service })),
);

/** The services for which a rule does not hold. */
function breaking(rule: (service: Service, name: string) => boolean): string[] {
  return all.filter(({ service, name }) => !rule(service, name)).map(({ where }) => where);
}

describe('the compose files', () => {
  it('have services', () => {
    expect(all.length).to.be.above(20);
  });

  it('let no service write to its image, gain rights, or start processes without end', () => {
    expect(breaking(({ read_only }) => read_only === true)).to.deep.equal([]);
    expect(breaking(({ security_opt }) => security_opt?.includes('no-new-privileges:true') === true)).to.deep.equal([]);
    expect(breaking(({ pids_limit = Infinity }) => pids_limit > 0 && pids_limit <= 200)).to.deep.equal([]);
    expect(breaking(({ privileged }) => privileged === undefined)).to.deep.equal([]);
  });

  it('give a service no right of root but those that the entrypoints of Redis and PostgreSQL need', () => {
    expect(breaking(({ cap_drop }) => cap_drop?.join() === 'ALL')).to.deep.equal([]);
    const isKnown = ({ cap_add = [], image }: Service) =>
      cap_add.every((right) => RIGHTS[image.split(':')[0]!]?.includes(right));
    expect(breaking(isKnown)).to.deep.equal([]);
  });

  it('run nginx and our code not as root', () => {
    expect(
      breaking(({ image, user }) => !image.startsWith('nginx:') || /^[1-9]\d*:[1-9]\d*$/.test(user ?? '')),
    ).to.deep.equal([]);
    expect(breaking(({ user }, name) => user === undefined || name === 'nginx')).to.deep.equal([]);
    // Stages that a stack runs have a CMD; the Rinha image inherits it.
    const stages = textOf('docker/Dockerfile')
      .split(/^FROM /m)
      .filter((stage) => /^CMD /m.test(stage));
    const lastUser = (text: string) => [...text.matchAll(/^USER (.*)$/gm)].at(-1)?.[1];
    expect([...stages, textOf('rinha/Dockerfile')].map(lastUser)).to.deep.equal(['node', 'node', 'node']);
  });

  it('check a worker at the port that it serves', () => {
    for (const path of ['docker-compose.yml', PRODUCTION]) {
      const { environment, healthcheck } = stackOf(path).services['worker1']!;
      expect(healthcheck!.test!.at(-1), path).to.equal(environment!['WORKER_PORT']);
    }
  });

  it('mount files of this repository for reading only', () => {
    const isReadOnly = (volume: string) => !volume.startsWith('.') || volume.endsWith(':ro');
    expect(breaking(({ volumes = [] }) => volumes.every(isReadOnly))).to.deep.equal([]);
  });
});

describe('docker/compose.production.yml', () => {
  const { services } = stackOf(PRODUCTION);
  const settings = services['app1']!.environment!;
  const always = Object.entries(services).filter(([name]) => name !== 'migrate');

  it('demands passwords and gateways', () => {
    for (const name of ['DB_PASSWORD', 'REDIS_PASSWORD', 'GATEWAY_PRIMARY_URL', 'GATEWAY_FALLBACK_URL']) {
      expect(settings[name], name).to.equal(`\${${name}:?${name} is required}`);
    }
    expect(services['postgres']!.environment!['POSTGRES_PASSWORD']).to.match(/:\?/);
    expect(services['redis']!.environment!['REDISCLI_AUTH']).to.match(/:\?/);
  });

  it('neither purges nor promises less than the disk', () => {
    expect([settings['ALLOW_PURGE'], settings['DURABILITY']]).to.deep.equal(['false', 'disk']);
  });

  it('has no simulated gateways and no password of its own', () => {
    const ours = Object.keys(services).filter((name) => services[name]!.profiles === undefined);
    expect(ours).to.have.members(['nginx', 'app1', 'app2', 'worker1', 'migrate', 'redis', 'postgres']);
    expect([...textOf(PRODUCTION).matchAll(/PASSWORD:-[^}]/g)]).to.deep.equal([]);
  });

  it('runs the code of the image', () => {
    for (const name of ['app1', 'app2', 'worker1', 'migrate'])
      expect(services[name]!.volumes, name).to.equal(undefined);
    expect(services['migrate']!.build!.target).to.equal('production');
  });

  it('publishes nginx alone, on this machine unless BIND_ADDRESS says otherwise', () => {
    const published = Object.entries(services).filter(([, { ports, profiles }]) => ports && !profiles);
    expect(published.map(([name, { ports }]) => [name, ports])).to.deep.equal([
      ['nginx', [`\${BIND_ADDRESS:-127.0.0.1}:\${HTTP_PORT:-9999}:9999`]],
    ]);
  });

  it('starts each service again, checks its health, bounds its memory and its log', () => {
    for (const [name, { restart, healthcheck, mem_limit, logging }] of always) {
      expect(restart, name).to.equal('unless-stopped');
      expect(healthcheck?.test, name).to.be.an('array');
      expect(mem_limit, name).to.match(/^\d+[mg]$/);
      expect(logging?.options, name).to.have.all.keys('max-size', 'max-file');
    }
  });

  it('passes every setting on that the development stack passes on, but those of another Redis or PostgreSQL', () => {
    const elsewhere = ['REDIS_URL', 'REDIS_PORT', 'REDIS_CLUSTER_NODES', 'DATABASE_URL', 'DB_PORT', 'DB_SSL'];
    const ofDevelopment = Object.keys(stackOf(DEVELOPMENT).services['app1']!.environment!);
    expect(Object.keys(settings)).to.have.members(ofDevelopment.filter((name) => !elsewhere.includes(name)));
  });
});

describe('docker/compose.ha.yml', () => {
  const own = stackOf(HIGHLY_AVAILABLE);
  const { services } = STACKS[HIGHLY_AVAILABLE]!;
  const SERVERS = ['redis', 'redis2', 'redis3'];
  const SENTINELS = ['sentinel1', 'sentinel2', 'sentinel3'];
  const ofRedis = [...SERVERS, ...SENTINELS].map((name) => [name, services[name]!] as const);

  it('adds a Redis with two replicas and three sentinels, and changes nothing but API and worker', () => {
    expect(Object.keys(own.services)).to.have.members(['app1', 'app2', 'worker1', ...SERVERS, ...SENTINELS]);
    const { image } = stackOf(DEVELOPMENT).services['redis']!;
    for (const [name, service] of ofRedis) expect(service.image, name).to.equal(image);
  });

  it('has API and worker confirm each payment, and ask all sentinels', () => {
    for (const name of ['app1', 'app2', 'worker1']) {
      const settings = services[name]!.environment!;
      expect(settings, name).to.include({
        DURABILITY: 'replica',
        REDIS_SENTINELS: SENTINELS.map((sentinel) => `${sentinel}:26379`).join(),
        // What .env says of another Redis must not take precedence, or stop the start.
        REDIS_URL: '',
        REDIS_CLUSTER_NODES: '',
      });
      expect(textOf('docker/ha/sentinel.sh')).to.include(
        `sentinel monitor ${settings['REDIS_MASTER_NAME']} redis 6379 2`,
      );
    }
    expect(textOf('docker/ha/redis.sh')).to.include(`for sentinel in ${SENTINELS.join(' ')};`);
  });

  it('gives each server its own name and a volume of its own, which outlives it', () => {
    for (const [name, { command, volumes }] of ofRedis) {
      const script = SENTINELS.includes(name) ? 'sentinel.sh' : 'redis.sh';
      expect(command, name).to.deep.equal([`/usr/local/lib/payrelay/${script}`, name]);
      expect(volumes, name).to.include(`./docker/ha/${script}:/usr/local/lib/payrelay/${script}:ro`);
      expect(volumes, name).to.include(`${name}-data:/data`);
    }
    const declared = Object.keys({ ...stackOf(DEVELOPMENT).volumes, ...own.volumes });
    expect(declared).to.include.members(ofRedis.map(([name]) => `${name}-data`));
  });

  it('has each server keep on its disk what it has replied to', () => {
    for (const name of SERVERS) {
      expect(services[name]!.volumes, name).to.include('./docker/redis.conf:/usr/local/etc/redis/redis.conf:ro');
    }
    expect(textOf('docker/redis.conf')).to.match(/^appendfsync always$/m);
  });

  it('starts each server again, checks its health, bounds its memory and its log', () => {
    for (const [name, { restart, healthcheck, mem_limit, logging }] of ofRedis) {
      expect(restart, name).to.equal('unless-stopped');
      expect(healthcheck?.test, name).to.be.an('array');
      expect(mem_limit, name).to.match(/^\d+m$/);
      expect(logging?.options, name).to.have.all.keys('max-size', 'max-file');
    }
  });
});

describe('the profile observability', () => {
  const stacks = [DEVELOPMENT, PRODUCTION].map((path) => ({ path, services: stackOf(path).services }));
  const observing = stacks.flatMap(({ path, services }) =>
    ['prometheus', 'grafana'].map((name) => ({ path, name, ...services[name]! })),
  );

  it('has Prometheus and Grafana, which start with no other profile', () => {
    expect(observing.map(({ profiles }) => profiles)).to.deep.equal(Array(4).fill(['observability']));
  });

  it('publishes both on this machine only, because they have no login', () => {
    for (const { path, name, ports } of observing) {
      const variable = `${name.toUpperCase()}_PORT`;
      expect(ports, path).to.have.lengthOf(1);
      expect(ports![0], path).to.match(new RegExp(`^127\\.0\\.0\\.1:\\$\\{${variable}:-\\d+\\}:\\d+$`));
    }
  });

  it('mounts files that exist', () => {
    for (const { path, volumes } of observing) {
      const mounted = volumes!.filter((volume) => volume.startsWith('.')).map((volume) => volume.split(':')[0]!);
      expect(mounted).to.have.lengthOf(2);
      const missing = mounted.filter((file) => !existsSync(new URL(file, new URL(`../../${path}`, import.meta.url))));
      expect(missing, path).to.deep.equal([]);
    }
  });

  it('scrapes the API nodes and workers of both stacks at their ports', () => {
    const [api, worker] = parse(textOf('docker/observability/prometheus.yml'), { merge: true }).scrape_configs;
    const targets: string[] = api.static_configs[0].targets;
    const [{ names, port: workerPort }] = worker.dns_sd_configs;
    for (const { path, services } of stacks) {
      const ofRole = (role: string) =>
        Object.entries(services).filter(([, { environment }]) => environment?.['APP_ROLE'] === role);
      expect(targets, path).to.deep.equal(
        ofRole('api').map(([name, { environment }]) => `${name}:${environment!['PORT']}`),
      );
      expect(names, path).to.deep.equal(ofRole('worker').map(([name]) => name));
      for (const [name, { environment }] of ofRole('worker')) {
        expect(environment!['WORKER_PORT'], name).to.equal(`\${WORKER_PORT:-${workerPort}}`);
      }
    }
  });

  it('gives Prometheus the token at the path that its configuration names', () => {
    const { authorization } = parse(textOf('docker/observability/prometheus.yml')).scrape_configs[0];
    for (const { path, services } of stacks) {
      const { command, environment } = services['prometheus']!;
      expect(command!.join(), path).to.include(`"$$METRICS_TOKEN" >${authorization.credentials_file} `);
      expect(environment!['METRICS_TOKEN'], path).to.equal(services['app1']!.environment!['METRICS_TOKEN']);
    }
  });
});
