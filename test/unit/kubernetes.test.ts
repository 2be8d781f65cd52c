import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { loadConfig, SETTING_NAMES } from '../../src/config.ts';
import { type Manifest, readKustomization, readManifests } from '../support/manifests.ts';

const files = readManifests();
const manifests = [...files.values()].flat();
const kustomization = readKustomization();
const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));

function ofKind(kind: string): Manifest[] {
  return manifests.filter((manifest) => manifest.kind === kind);
}

function named(kind: string, name: string): Manifest {
  return ofKind(kind).find(({ metadata }) => metadata.name === name)!;
}

const api = named('Deployment', 'payrelay-api');
const worker = named('Deployment', 'payrelay-worker');
const settings: Record<string, string> = named('ConfigMap', 'payrelay')['data'];

/** The pod that a Deployment or Job starts. */
function podOf(workload: Manifest) {
  return workload['spec'].template.spec;
}

function envOf(workload: Manifest): Record<string, string> {
  const { env = [] } = podOf(workload).containers[0];
  return Object.fromEntries(env.map(({ name, value }: { name: string; value: string }) => [name, value]));
}

function portsOf(workload: Manifest): Record<string, number> {
  const { ports = [] } = podOf(workload).containers[0];
  return Object.fromEntries(
    ports.map((port: { name: string; containerPort: number }) => [port.name, port.containerPort]),
  );
}

const workloads = [api, worker, ...ofKind('Job')];
const all = (check: (workload: Manifest, name: string) => void) => {
  for (const workload of workloads) check(workload, workload.metadata.name);
};

/** The paths that a file of the product serves. */
function pathsIn(file: string): string[] {
  const text = readFileSync(new URL(`../../src/http/${file}`, import.meta.url), 'utf8');
  return [...text.matchAll(/path: '([^']*)'/g)].map(([, path]) => path!);
}

describe('the Kubernetes manifests', () => {
  it('are all in the kustomization, but for the migration', () => {
    expect([...kustomization.resources, 'migration.yml']).to.have.members([...files.keys()]);
    expect(workloads).to.have.lengthOf(3);
  });

  it('run the image of this version', () => {
    const { name, newName, newTag } = kustomization.images[0]!;
    expect(newTag).to.equal(version);
    expect([api, worker].map((workload) => podOf(workload).containers[0].image)).to.deep.equal([name, name]);
    // The kustomization does not reach it.
    const [migration] = ofKind('Job');
    expect(podOf(migration!).containers[0].image).to.equal(`${newName}:${newTag}`);
    expect(migration!.metadata.namespace).to.equal(kustomization.namespace);
  });

  it('name only settings of ours, with values that a process starts with', () => {
    all((workload, name) => {
      const env = { ...settings, ...envOf(workload) };
      expect(SETTING_NAMES, name).to.include.members(Object.keys(env));
      expect(() => loadConfig(env), name).not.to.throw();
    });
    expect(loadConfig({ ...settings, ...envOf(api) }).role).to.equal('api');
    expect(loadConfig({ ...settings, ...envOf(worker) }).role).to.equal('worker');
  });

  it('have no secret: each workload reads the Secret beside the ConfigMap', () => {
    expect(ofKind('Secret')).to.deep.equal([]);
    expect(Object.keys(settings).filter((name) => /PASSWORD|TOKEN|_URL$/.test(name))).to.deep.equal([
      'GATEWAY_PRIMARY_URL',
      'GATEWAY_FALLBACK_URL',
    ]);
    const expected = [{ configMapRef: { name: 'payrelay' } }, { secretRef: { name: 'payrelay' } }];
    all((workload, name) => expect(podOf(workload).containers[0].envFrom, name).to.deep.equal(expected));
  });

  it('let Kubernetes set no variable of its own, which could have the name of a setting', () => {
    all((workload, name) => expect(podOf(workload).enableServiceLinks, name).to.equal(false));
  });

  it('give no process a right that it does not need', () => {
    all((workload, name) => {
      const { securityContext, automountServiceAccountToken, containers } = podOf(workload);
      expect(securityContext, name).to.deep.include({ runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } });
      expect(automountServiceAccountToken, name).to.equal(false);
      expect(containers[0].securityContext, name).to.deep.equal({
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ['ALL'] },
      });
    });
  });

  it('bound the memory of each process, and not its CPU, which would stop it in the middle of an attempt', () => {
    all((workload, name) => {
      const { requests, limits } = podOf(workload).containers[0].resources;
      expect(requests, name).to.have.all.keys('cpu', 'memory');
      expect(limits, name).to.have.all.keys('memory');
    });
  });

  it('probe paths that the process serves, at the port that it serves', () => {
    expect(portsOf(api)).to.deep.equal({ http: Number(envOf(api)['PORT']) });
    expect(portsOf(worker)).to.deep.equal({ metrics: Number(envOf(worker)['WORKER_PORT']) });
    const served = new Map([
      [api, pathsIn('routes.ts')],
      [worker, pathsIn('worker-server.ts')],
    ]);
    for (const [workload, paths] of served) {
      const container = podOf(workload).containers[0];
      for (const kind of ['startupProbe', 'livenessProbe', 'readinessProbe']) {
        if (workload === worker && kind === 'readinessProbe') continue;
        const { path, port } = container[kind].httpGet;
        expect(paths, kind).to.include(path);
        expect(path, kind).to.equal(kind === 'readinessProbe' ? '/health/ready' : '/health/live');
        expect(Object.keys(portsOf(workload)), kind).to.include(port);
      }
    }
    expect(podOf(worker).containers[0].readinessProbe).to.equal(undefined);
  });

  it('wait longer for the end of a process than the process does', () => {
    for (const workload of [api, worker]) {
      const { terminationGracePeriodSeconds, containers } = podOf(workload);
      const [, preStopSeconds = '0'] = containers[0].lifecycle?.preStop.exec.command ?? [];
      const { shutdownTimeoutMs } = loadConfig({ ...settings, ...envOf(workload) });
      expect(terminationGracePeriodSeconds).to.be.above(Number(preStopSeconds) + shutdownTimeoutMs / 1000);
    }
  });

  it('select the pods that they mean, and no others', () => {
    const labelsOf = (workload: Manifest) => workload['spec'].template.metadata.labels;
    /** The workloads whose pods have all of these labels. */
    const selected = (labels: Record<string, string>) =>
      workloads.filter((workload) => {
        const own = labelsOf(workload);
        return Object.entries(labels).every(([key, value]) => own[key] === value);
      });
    for (const workload of [api, worker]) {
      const { selector, template } = workload['spec'];
      expect(selected(selector.matchLabels)).to.deep.equal([workload]);
      for (const { labelSelector } of template.spec.topologySpreadConstraints) {
        expect(selected(labelSelector.matchLabels)).to.deep.equal([workload]);
      }
      const budget = named('PodDisruptionBudget', workload.metadata.name);
      expect(selected(budget['spec'].selector.matchLabels)).to.deep.equal([workload]);
    }
    expect(ofKind('PodDisruptionBudget')).to.have.lengthOf(2);
    expect(selected(named('Service', 'payrelay-api')['spec'].selector)).to.deep.equal([api]);
    for (const workload of workloads) {
      const policy = named('NetworkPolicy', workload.metadata.name);
      expect(selected(policy['spec'].podSelector.matchLabels)).to.deep.equal([workload]);
      const allowed = (policy['spec'].ingress ?? []).flatMap(({ ports }: { ports: { port: string }[] }) => ports);
      expect(allowed.map(({ port }: { port: string }) => port)).to.deep.equal(Object.keys(portsOf(workload)));
    }
  });

  it('send requests to the port of the API', () => {
    const [{ targetPort }] = named('Service', 'payrelay-api')['spec'].ports;
    expect(Object.keys(portsOf(api))).to.include(targetPort);
  });

  it('keep the API up while machines are drained or a version is rolled out', () => {
    expect(api['spec'].replicas).to.be.above(1);
    for (const workload of [api, worker]) {
      expect(workload['spec'].strategy.rollingUpdate).to.deep.equal({ maxSurge: 1, maxUnavailable: 0 });
      expect(named('PodDisruptionBudget', workload.metadata.name)['spec'].maxUnavailable).to.equal(1);
    }
  });

  it('leave the number of workers to the scaling, by a series that API nodes have', () => {
    const { scaleTargetRef, minReplicas, maxReplicas, metrics } = named('HorizontalPodAutoscaler', 'payrelay-worker')[
      'spec'
    ];
    expect(scaleTargetRef).to.deep.equal({ apiVersion: 'apps/v1', kind: 'Deployment', name: worker.metadata.name });
    expect(worker['spec']).not.to.have.property('replicas');
    expect(minReplicas).to.be.above(1);
    expect(maxReplicas).to.be.above(minReplicas);
    const [{ external }] = metrics;
    const page = readFileSync(new URL('../../docs/operating.md', import.meta.url), 'utf8');
    expect(page).to.include(`| \`${external.metric.name}\` |`);
    const guide = readFileSync(new URL('../../docs/kubernetes.md', import.meta.url), 'utf8');
    expect(guide).to.match(new RegExp(`seriesQuery: ${external.metric.name}\\b`));
  });
});
