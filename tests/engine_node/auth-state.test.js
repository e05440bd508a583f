// @ts-check
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  isLinked,
  MemoryKeys,
  parse,
  parseCreds,
  serialise,
  StoredAuth,
} from '../../whatsapp/engine/node/auth-state.js'
import { PipeError } from '../../whatsapp/engine/node/pipe.js'
import { initAuthCreds, proto } from '../../whatsapp/engine/node/node_modules/@whiskeysockets/baileys/lib/index.js'

const bytes = (/** @type {number[]} */ ...values) => Buffer.from(values)

test('the three forms of binary values load as Buffers', () => {
  const forms = ['{"type":"Buffer","data":[5,0,255]}', '{"type":"Buffer","data":"BQD/"}', '{"0":5,"1":0,"2":255}']
  for (const form of forms) {
    const { value } = parse(`{"value":${form}}`)
    assert.ok(Buffer.isBuffer(value), form)
    assert.deepEqual([...value], [5, 0, 255])
    assert.equal(serialise({ value }), '{"value":{"type":"Buffer","data":"BQD/"}}')
  }
})

test('what only looks like bytes stays as it is', () => {
  for (const text of ['{}', '[1,2]', '{"1":1}', '{"0":256}', '{"0":-1}', '{"0":1.5}', '{"0":1,"x":2}', '{"0":"1"}']) {
    assert.deepEqual(parse(text), JSON.parse(text), text)
  }
})

test('creds survive a round trip in each form', () => {
  const creds = { ...initAuthCreds(), me: { id: '79990000001:3@s.whatsapp.net' } }
  const account = { details: bytes(1), accountSignatureKey: bytes(2), accountSignature: bytes(3), deviceSignature: bytes(4) }
  const stored = serialise({ ...creds, account: proto.ADVSignedDeviceIdentity.fromObject(account) })
  const loaded = parseCreds(stored)
  assert.deepEqual(loaded.noiseKey, creds.noiseKey)
  assert.ok(Buffer.isBuffer(loaded.signedPreKey.keyPair.private))
  assert.deepEqual([...(loaded.account?.accountSignatureKey ?? [])], [2])
  assert.ok(isLinked(loaded))
  assert.equal(serialise(parseCreds(serialise(loaded))), serialise(loaded))
})

test('linked means account and device, never registered', () => {
  const fresh = initAuthCreds()
  assert.equal(isLinked({ ...fresh, registered: true, me: { id: '79990000001@s.whatsapp.net' } }), false)
  assert.equal(isLinked({ ...fresh, account: {}, me: { id: '79990000001@s.whatsapp.net' } }), false)
  assert.equal(isLinked({ ...fresh, me: { id: '79990000001:3@s.whatsapp.net' } }), false)
  assert.equal(isLinked({ ...fresh, account: {}, me: { id: '79990000001:3@s.whatsapp.net' } }), true)
})

/** One value of each type in SignalDataTypeMap. @type {Record<string, any>} */
const VALUES = {
  'pre-key': { public: bytes(1, 2), private: bytes(3, 4) },
  session: bytes(0, 1, 2, 255),
  'sender-key': bytes(9),
  'sender-key-memory': { '79990000001@s.whatsapp.net': true },
  'app-state-sync-key': proto.Message.AppStateSyncKeyData.fromObject({
    keyData: bytes(7, 8), fingerprint: { rawId: 5, currentIndex: 1, deviceIndexes: [0, 2] }, timestamp: 1700000000,
  }),
  'app-state-sync-version': { version: 3, hash: bytes(1), indexValueMap: { 'AQ==': { valueMac: bytes(6) } } },
  'lid-mapping': '100000000000001',
  'device-list': ['0', '5'],
  tctoken: { token: bytes(1, 1), timestamp: '1700000000' },
  'identity-key': bytes(5, 5),
}

/** A store behind the pipe, with the rows that were saved. @param {Partial<ConstructorParameters<typeof StoredAuth>[0]>} [options] */
function makeStored(options = {}) {
  /** @type {Record<string, any>} */
  const rows = {}
  /** @type {{creds: string | null, keys: any[]}[]} */
  const saves = []
  const auth = new StoredAuth({
    label: 'test',
    known: 'known',
    load: async (type, ids) =>
      JSON.stringify(Object.fromEntries(ids.map(id => [id, rows[`${type} ${id}`] ?? null]))),
    save: async (creds, keys) => {
      const given = JSON.parse(keys ?? '[]')
      saves.push({ creds, keys: given })
      for (const { t, i, v } of given) rows[`${t} ${i}`] = v
    },
    onRefused: () => {},
    onHeld: () => {},
    ...options,
  })
  return { auth, rows, saves }
}

for (const [type, value] of Object.entries(VALUES)) {
  test(`${type} comes back as it was`, async () => {
    for (const store of [new MemoryKeys(), makeStored().auth]) {
      await store.set(/** @type {any} */ ({ [type]: { one: value } }))
      const { one } = await store.get(type, ['one', 'two'])
      assert.deepEqual(one, value)
      assert.deepEqual(Object.keys(await store.get(type, ['two'])), [])
      await store.set(/** @type {any} */ ({ [type]: { one: null } }))
      assert.deepEqual(await store.get(type, ['one']), {})
    }
  })
}

test('what was written before an app-state-sync-key was a protobuf loads too', async () => {
  const { auth, rows } = makeStored()
  rows['app-state-sync-key one'] = { keyData: 'Bwg=', timestamp: '1700000000' }
  rows['app-state-sync-key two'] = { keyData: { 0: 7, 1: 8 }, timestamp: 1700000000 }
  const found = await auth.get('app-state-sync-key', ['one', 'two'])
  for (const id of ['one', 'two']) assert.deepEqual([...found[id].keyData], [7, 8])
})

test('what comes in during a save goes out in one, the newest value of each', async () => {
  /** @type {(() => void)[]} */
  const gates = []
  /** @type {any[]} */
  const saves = []
  const { auth } = makeStored({
    save: (creds, keys) => {
      saves.push({ creds, keys: JSON.parse(keys ?? '[]').map((/** @type {any} */ row) => [row.i, row.v]) })
      return new Promise(resolve => gates.push(() => resolve()))
    },
  })
  const done = []
  done.push(auth.set({ 'lid-mapping': { a: '1' } }))
  await new Promise(setImmediate)
  done.push(auth.set({ 'lid-mapping': { a: '2', b: '1' } }), auth.set({ 'lid-mapping': { a: '3' } }))
  auth.setCreds('first')
  auth.setCreds('second')
  await new Promise(setImmediate)
  assert.equal(saves.length, 1)
  gates[0]()
  await new Promise(setImmediate)
  assert.deepEqual(saves[1], { creds: 'second', keys: [['a', '3'], ['b', '1']] })
  gates[1]()
  await Promise.all(done)
  assert.equal(saves.length, 2)
})

test('creds that have not changed are not written', async () => {
  const { auth, saves } = makeStored()
  auth.setCreds('known')
  await auth.drain()
  assert.deepEqual(saves, [])
})

/** A store that fails until it is told to heal. @param {Partial<ConstructorParameters<typeof StoredAuth>[0]>} [options] */
function makeFailing(options = {}) {
  /** @type {{creds: string | null, keys: any[], number: number}[]} */
  const tries = []
  let fails = true
  const stored = makeStored({
    save: async (creds, keys, number) => {
      tries.push({ creds, keys: JSON.parse(keys ?? '[]').map((/** @type {any} */ row) => [row.i, row.v]), number })
      if (fails) throw new PipeError('failed')
    },
    ...options,
  })
  return { ...stored, tries, heal: () => { fails = false } }
}

test('a save that fails is tried again with what came in since, the newest value of each', async () => {
  const { auth, tries, heal } = makeFailing()
  const done = [auth.set({ 'lid-mapping': { a: '1', b: '1' } })]
  auth.setCreds('old')
  await new Promise(setImmediate)
  assert.equal(tries.length, 1)
  done.push(auth.set({ 'lid-mapping': { a: '2' } }))
  auth.setCreds('new')
  let isOver = false
  void Promise.all(done).then(() => { isOver = true })
  await new Promise(setImmediate)
  assert.equal(isOver, false, 'nobody hears that it was stored')
  heal()
  await Promise.all(done)
  assert.deepEqual(tries[0], { creds: 'old', keys: [['a', '1'], ['b', '1']], number: 1 })
  const last = tries[tries.length - 1]
  assert.deepEqual(last, { creds: 'new', keys: [['a', '2'], ['b', '1']], number: tries.length })
})

test('a socket that ends while the store fails gives up, and nobody waits for it', async () => {
  const { auth, tries, heal } = makeFailing()
  const waiting = auth.set({ 'lid-mapping': { a: '1' } })
  await new Promise(setImmediate)
  auth.retire()
  await auth.drain()
  await waiting
  assert.equal(tries.length, 2)
  heal()
  await auth.drain()
  assert.equal(tries.length, 2, 'what was given up does not come back')
})

test('more than can be held ends the socket', async () => {
  const held = Promise.withResolvers()
  const { auth } = makeFailing({ onHeld: () => held.resolve(undefined) })
  void auth.set({ 'lid-mapping': { a: 'x'.repeat(9 << 20) } })
  await held.promise
  auth.retire()
  await auth.drain()
})

test('a failed read rejects', async () => {
  const { auth } = makeStored({ load: async () => Promise.reject(new PipeError('failed')) })
  await assert.rejects(auth.get('session', ['a']), /failed/)
})

test('a retired session writes nothing new, and nobody waits for it', async () => {
  const { auth, saves } = makeStored()
  const queued = auth.set({ 'lid-mapping': { a: '1' } })
  auth.retire()
  await auth.set({ 'lid-mapping': { b: '1' } })
  auth.setCreds('late')
  await queued
  await auth.drain()
  assert.deepEqual(saves.map(({ keys }) => keys.map(({ i }) => i)), [['a']])
  assert.deepEqual(await auth.get('lid-mapping', ['a']), {})
})

test('a refusal retires, and fails nobody: Baileys would try ten times', async () => {
  let refused = 0
  const { auth } = makeStored({
    save: async () => Promise.reject(new PipeError('refused')),
    onRefused: () => refused++,
  })
  await auth.set({ 'lid-mapping': { a: '1' } })
  await auth.set({ 'lid-mapping': { b: '1' } })
  assert.equal(refused, 1)
})
