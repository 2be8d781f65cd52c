import { expect } from 'chai';
import { createReplicaQuorum, MISSING_MS } from '../../../src/queue/replica-quorum.ts';

/** A reply to `INFO replication` of a primary. @param lags of its replicas, in s */
function replication(lags: readonly number[], id = 'a1'): string {
  const replicas = lags.map(
    (lag, index) => `slave${index}:ip=127.0.0.1,port=${index + 1},state=online,offset=9,lag=${lag}`,
  );
  return ['# Replication', 'role:master', ...replicas, `master_replid:${id}`, ''].join('\r\n');
}

function quorumOf(lags: readonly number[], promotable = 0) {
  let nowMs = 0;
  const quorum = createReplicaQuorum(() => nowMs);
  quorum.connected(replication(lags), promotable);
  return {
    quorum,
    pass(ms: number) {
      nowMs += ms;
    },
    isEnough: (confirmed: number) => quorum.isEnough(confirmed, quorum.wanted),
  };
}

describe('replica quorum', () => {
  it('waits for all replicas that follow', () => {
    const { quorum, isEnough } = quorumOf([0, 1]);
    expect(quorum.wanted).to.equal(2);
    expect(isEnough(2)).to.equal(true);
    expect(isEnough(1)).to.equal(false);
  });

  it('takes a replica that is known and does not follow at the first connection for one that may have been promoted', () => {
    const { quorum, pass, isEnough } = quorumOf([0], 2);
    expect(quorum.wanted).to.equal(2);
    expect(isEnough(1)).to.equal(false);
    pass(MISSING_MS);
    expect(isEnough(1)).to.equal(true);
  });

  it('waits for one where none follows', () => {
    const { quorum, isEnough } = quorumOf([]);
    expect(quorum.wanted).to.equal(1);
    expect(isEnough(0)).to.equal(false);
    expect(isEnough(1)).to.equal(true);
  });

  it('does not wait for a replica that has been silent for seconds', () => {
    expect(quorumOf([0, 7]).quorum.wanted).to.equal(1);
  });

  it('does without a replica that does not confirm only when it could not have been promoted', () => {
    const { quorum, pass, isEnough } = quorumOf([0, 0]);
    expect(isEnough(1)).to.equal(false);
    pass(MISSING_MS - 1);
    expect(isEnough(1)).to.equal(false);
    pass(1);
    expect(isEnough(1)).to.equal(true);
    expect(quorum.wanted).to.equal(1);
  });

  it('counts again from the start when the replica has confirmed', () => {
    const { pass, isEnough } = quorumOf([0, 0]);
    expect(isEnough(1)).to.equal(false);
    pass(MISSING_MS);
    expect(isEnough(2)).to.equal(true);
    expect(isEnough(1)).to.equal(false);
  });

  it('never does without any replica', () => {
    const { pass, isEnough } = quorumOf([0]);
    expect(isEnough(0)).to.equal(false);
    pass(MISSING_MS);
    expect(isEnough(0)).to.equal(false);
  });

  it('remembers over a new connection that a replica is missing', () => {
    const { quorum, isEnough } = quorumOf([0, 0]);
    expect(isEnough(1)).to.equal(false);
    quorum.connected(replication([0]));
    expect(isEnough(1)).to.equal(false);
  });

  it('remembers it although the primary has begun another history meanwhile', () => {
    const { quorum, isEnough } = quorumOf([]);
    quorum.looked(replication([0, 0], 'b2'));
    expect(isEnough(2)).to.equal(true);
    expect(isEnough(1)).to.equal(false);
    quorum.connected(replication([0], 'b2'));
    expect(isEnough(1)).to.equal(false);
  });

  it('does not let a replica that comes make up for one that goes', () => {
    const { quorum, pass } = quorumOf([0]);
    const another = replication([0]).replace('port=1', 'port=9');
    expect(quorum.isEnough(1, 1, another)).to.equal(false);
    pass(MISSING_MS);
    expect(quorum.isEnough(1, 1, another)).to.equal(true);
  });

  it('forgets the replicas of another primary', () => {
    const { quorum, isEnough } = quorumOf([0, 0]);
    expect(isEnough(1)).to.equal(false);
    quorum.connected(replication([0], 'b2'));
    expect(isEnough(1)).to.equal(true);
  });

  it('waits for a further replica as soon as that has confirmed a write', () => {
    const { quorum, isEnough } = quorumOf([0]);
    quorum.looked(replication([0, 0]));
    expect(quorum.wanted).to.equal(2);
    expect(isEnough(1)).to.equal(true);
    expect(quorum.wanted).to.equal(1);
    quorum.looked(replication([0, 0]));
    expect(isEnough(2)).to.equal(true);
    expect(isEnough(1)).to.equal(false);
  });

  it('judges a write that was under way when a further replica was found by what it has waited for', () => {
    const { quorum } = quorumOf([0]);
    quorum.looked(replication([0, 0]));
    expect(quorum.isEnough(2, 2)).to.equal(true);
    expect(quorum.isEnough(1, 1)).to.equal(true);
  });
});
