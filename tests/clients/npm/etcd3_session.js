// A session with the npm client etcd3 1.1: HOST:PORT in, one line of JSON out.
'use strict';

const { once } = require('node:events');
const { Etcd3 } = require('etcd3');

const WAIT_MS = 20000;
const found = {};

/** Notes a fact; each name once. */
function facts(name, value) {
  if (name in found) throw new Error(`${name} was found before`);
  found[name] = value;
}

/** Notes with which error a promise is refused. */
async function refused(name, promise) {
  try {
    await promise;
  } catch (error) {
    facts(name, [error.constructor.name, error.message]);
    return;
  }
  throw new Error(`${name}: nothing was refused`);
}

/** A key-value pair without its lease, whose id is random. */
function pair(one) {
  return [
    one.key.toString(),
    one.value.toString(),
    one.create_revision,
    one.mod_revision,
    one.version,
  ];
}

async function keysAndValues(client) {
  for (const name of ['a', 'b', 'c']) {
    const put = await client.put(`kv/${name}`).value(`value ${name}`);
    facts(`put ${name}`, put.header.revision);
  }
  facts('previous', pair(await client.put('kv/a').value('new').getPrevious()));
  facts('touch', (await client.put('kv/b').touch()).header.revision);
  facts('get', await client.get('kv/a').string());
  facts('get serializable', await client.get('kv/b').serializable(true).string());
  facts('get none', await client.get('kv/none'));
  facts('exists', await client.get('kv/a').exists());
  facts('old', await client.get('kv/a').revision(2).string());
  facts('response', (await client.get('kv/a').exec()).kvs.map(pair));
  await client.put('kv/json').value(JSON.stringify({ deep: [1, 'two'] }));
  facts('json', await client.get('kv/json').json());
  await client.put('kv/number').value(42);
  facts('number', await client.get('kv/number').number());
  const bytes = Buffer.from([0, 1, 254, 255]);
  await client.put(Buffer.concat([Buffer.from('raw/'), bytes])).value(bytes);
  const raw = await client.getAll().prefix('raw/').exec();
  facts('raw', raw.kvs.map((one) => [one.key.toString('hex'), one.value.toString('hex')]));
  await client.put('kv/large').value('x'.repeat(300000));
  facts('large', (await client.get('kv/large').string()).length);
  facts('prefix', await client.getAll().prefix('kv/a').strings());
  facts('keys', await client.getAll().prefix('kv/').sort('Mod', 'Descend').limit(3).keys());
  facts('count', await client.getAll().prefix('kv/').count());
  facts('range', await client.getAll().inRange({ start: 'kv/a', end: 'kv/c' }).strings());
  facts('newer', await client.getAll().prefix('kv/').minModRevision(5).keys());
  facts('all', await client.getAll().count());
  const gone = await client.delete().key('kv/c').getPrevious();
  facts('delete, previous', gone.map(pair));
  facts('delete none', (await client.delete().key('kv/c')).deleted);
  facts('delete range', (await client.delete().range(client.range({ start: 'kv/a', end: 'kv/b' }))).deleted);
  facts('delete prefix', (await client.delete().prefix('kv/')).deleted);
  await refused('empty key', client.put('').value('x').exec());
  await refused('future revision', client.get('kv/a').revision(1000000).string());
}

async function transactions(client) {
  await client.put('t/a').value('1');
  const done = await client
    .if('t/a', 'Value', '==', '1')
    .and('t/a', 'Version', '>', 0)
    .and('t/none', 'Create', '==', 0)
    .and('t/a', 'Mod', '!=', 1)
    .then(client.put('t/b').value('2'), client.get('t/a'), client.delete().key('t/a'))
    .else(client.put('t/b').value('0'))
    .commit();
  facts('txn', [done.succeeded, done.responses.map((one) => one.response)]);
  facts('txn read', done.responses[1].response_range.kvs.map(pair));
  const failed = await client
    .if('t/b', 'Value', '<', '1')
    .then(client.put('t/d').value('4'))
    .else(client.get('t/b'))
    .commit();
  facts('txn failed', [failed.succeeded, failed.responses[0].response_range.kvs.map(pair)]);
  facts('after', await client.getAll().prefix('t/').strings());
  await refused(
    'twice',
    client
      .if('t/b', 'Version', '>', 0)
      .then(client.put('t/e').value('1'), client.put('t/e').value('2'))
      .commit(),
  );
  await client.put('t/count').value(5);
  const stepped = await Promise.all(
    [1, 2, 3].map((step) =>
      client.stm({ retries: 20 }).transact(async (tx) => {
        const before = await tx.get('t/count').number();
        await tx.put('t/count').value(before + step);
        return step;
      }),
    ),
  );
  facts('memory transactions', [stepped, await client.get('t/count').number()]);
}

async function leases(client) {
  const lease = client.lease(600, { autoKeepAlive: false });
  const id = await lease.grant();
  await lease.put('l/a').value('1');
  await client.put('l/b').lease(id).value('2');
  const told = await client.leaseClient.leaseTimeToLive({ ID: id, keys: true });
  facts('lease', [told.grantedTTL, told.keys.map(String).sort()]);
  facts('lease left', Number(told.TTL) > 590 && Number(told.TTL) <= 600);
  facts('keep alive', (await lease.keepaliveOnce()).TTL);
  facts('lease of a key', (await client.get('l/a').exec()).kvs[0].lease === id);
  await lease.revoke();
  facts('revoked', await client.getAll().prefix('l/').strings());
  await refused('gone', client.put('l/c').lease(id).value('3').exec());
  const kept = client.lease(600);
  const renewed = once(kept, 'keepaliveSucceeded');
  await kept.grant();
  facts('kept alive', (await renewed)[0].TTL);
  await kept.revoke();
  facts('lock', await client.lock('door').ttl(60).do(async () => 'inside'));
  const held = await client.lock('gate').ttl(60).acquire();
  await refused('locked', client.lock('gate').ttl(60).acquire());
  await held.release();
  await (await client.lock('gate').ttl(60).acquire()).release();
}

/** The next events of a watcher, once there are so many. */
function events(watcher, count) {
  const seen = [];
  return new Promise((resolve, reject) => {
    const note = (kind) => (one, previous) => {
      seen.push([kind, pair(one), previous ? pair(previous) : null]);
      if (seen.length === count) resolve(seen.slice());
    };
    watcher.on('put', note('put')).on('delete', note('delete')).on('error', reject);
  });
}

async function watches(client) {
  const first = (await client.put('w/a').value('1')).header.revision;
  await client.put('w/b').value('2');
  await client.delete().key('w/a');
  const past = client.watch().prefix('w/').withPreviousKV().startRevision(first).watcher();
  facts('history', await events(past, 3));
  const live = await client.watch().key('w/live').create();
  const deletes = await client.watch().prefix('w/').ignore('put').create();
  const heard = Promise.all([events(past, 3), events(live, 3), events(deletes, 1)]);
  await client.put('w/live').value('x');
  await client.put('w/live').value('y');
  await client.delete().key('w/live');
  facts('live', await heard);
  await Promise.all([past.cancel(), live.cancel(), deletes.cancel()]);
  const quiet = await client.watch().key('w/live').create();
  const woken = events(quiet, 1);
  await client.put('w/live').value('after others were cancelled');
  facts('another', await woken);
  await quiet.cancel();
  const apart = client.namespace('space/');
  const inside = await apart.watch().prefix('').create();
  const hears = events(inside, 1);
  await apart.put('w').value('1');
  facts('namespace', [await hears, await client.get('space/w').string()]);
  await inside.cancel();
}

async function elections(client) {
  const election = client.election('head', 60);
  const campaign = election.campaign('first');
  await once(campaign, 'elected');
  facts('leader', await election.leader());
  const observer = await election.observe();
  await campaign.proclaim('still first');
  while (observer.leader() !== 'still first') await once(observer, 'change');
  facts('observed', observer.leader());
  await observer.cancel();
  await campaign.resign();
  facts('resigned', (await election.leader()) === undefined);
}

async function maintenance(client) {
  const status = await client.maintenance.status();
  const members = await client.cluster.memberList({});
  facts('leader is the member', members.members.map((one) => one.ID === status.leader));
  facts('member', members.members.map((one) => one.clientURLs.length));
  facts('alarms', (await client.maintenance.alarm({ action: 'Get' })).alarms);
  const now = Number((await client.put('m/a').value('1')).header.revision);
  await client.kv.compact({ revision: now, physical: true });
  await refused('compacted', client.get('m/a').revision(now - 1).string());
}

async function users(client, host) {
  await client.role('hers').create();
  await client.role('hers').grant({ permission: 'Readwrite', range: client.range({ prefix: 'u/' }) });
  await client.user('ann').create('secret');
  await client.user('ann').addRole('hers');
  await client.user('root').create('secret');
  await client.role('root').create();
  await client.user('root').addRole('root');
  facts('users', (await client.getUsers()).map((one) => one.name).sort());
  await client.auth.authEnable();
  const root = new Etcd3({ hosts: host, auth: { username: 'root', password: 'secret' } });
  const ann = new Etcd3({ hosts: host, auth: { username: 'ann', password: 'secret' } });
  await ann.put('u/a').value('hers');
  facts('hers', await ann.get('u/a').string());
  await refused('not hers', ann.put('v/a').value('x').exec());
  await refused('nobody', client.get('u/a').string());
  await root.auth.authDisable();
  root.close();
  ann.close();
}

async function main() {
  const host = process.argv[2];
  const client = new Etcd3({ hosts: host });
  await keysAndValues(client);
  await transactions(client);
  await leases(client);
  await watches(client);
  await elections(client);
  await maintenance(client);
  await users(client, host);
  client.close();
  process.stdout.write(`${JSON.stringify(found)}\n`);
  process.exit(0);
}

setTimeout(() => {
  process.stderr.write(`no end in time; found: ${JSON.stringify(found)}\n`);
  process.exit(1);
}, 4 * WAIT_MS).unref();
main().catch((error) => {
  process.stderr.write(`${error.stack}\nfound: ${JSON.stringify(found)}\n`);
  process.exit(1);
});
