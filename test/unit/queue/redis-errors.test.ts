import { expect } from 'chai';
import { explainRedisError } from '../../../src/queue/redis-errors.ts';

const reply = (message: string, command?: string) =>
  Object.assign(new Error(message), { name: 'ReplyError', ...(command && { command: { name: command } }) });

describe('explainRedisError', () => {
  it('names the right that the user lacks', () => {
    const { code, detail } = explainRedisError(reply("NOPERM this user has no permissions to run the 'info' command"));
    expect(code).to.equal('missing_right');
    expect(detail).to.include('the Redis user lacks the right to run INFO');
  });

  it('names a subcommand', () => {
    const error = reply("NOPERM User u has no permissions to run the 'config|get' command");
    expect(explainRedisError(error).detail).to.include('to run CONFIG GET');
  });

  it('knows a missing right inside a script, as Redis 7.0 and 7.2 word it', () => {
    for (const message of [
      "ERR The user executing the script can't run this command or subcommand script: ddd5, on @user_script:1.",
      "ERR ACL failure in script: User u has no permissions to run the 'xadd' command script: ddd5",
    ]) {
      expect(explainRedisError(reply(message)).code).to.equal('missing_right');
    }
  });

  it('repeats no argument of a command, because those of AUTH are user and password', () => {
    const { detail } = explainRedisError(
      reply("ERR unknown command 'AUTH', with args beginning with: 'default' 's3cret' ", 'auth'),
    );
    expect(detail).to.equal("Redis replied with an error: ERR unknown command 'AUTH'");
  });

  it('distinguishes a failed SELECT from other error replies', () => {
    expect(explainRedisError(reply('ERR DB index is out of range', 'select')).code).to.equal('wrong_database');
    expect(explainRedisError(reply('ERR DB index is out of range')).code).to.equal('error_reply');
  });

  it('has a code for each state in which Redis replies but does not write', () => {
    const codes = [
      'OOM x',
      'NOREPLICAS x',
      'READONLY x',
      'MISCONF x',
      'LOADING x',
      'WRONGPASS x',
      'NOAUTH x',
      'WRONGTYPE x',
    ];
    expect(codes.map((message) => explainRedisError(reply(message)).code)).to.deep.equal([
      'out_of_memory',
      'too_few_replicas',
      'read_only',
      'disk_error',
      'loading',
      'wrong_password',
      'wrong_password',
      'wrong_type',
    ]);
  });

  it('explains the error of a cluster by the reply of its last node', () => {
    const error = Object.assign(new Error('Failed to refresh slots cache.'), { lastNodeError: reply('WRONGPASS no') });
    expect(explainRedisError(error).code).to.equal('wrong_password');
  });

  it('does not blame the connection for a lost job', () => {
    expect(explainRedisError(new Error('could not renew lock for job 7')).code).to.equal('job_lost');
    expect(explainRedisError(new Error('Missing key for job 7. moveToDelayed')).code).to.equal('job_lost');
  });

  it('counts a lost connection as unreachable', () => {
    const error = Object.assign(new Error('connect ECONNREFUSED 127.0.0.1:1'), { code: 'ECONNREFUSED' });
    expect(explainRedisError(error).code).to.equal('unreachable');
  });
});
