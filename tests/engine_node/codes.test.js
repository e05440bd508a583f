// @ts-check
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { CodePool } from '../../whatsapp/engine/node/codes.js'
import { derivePairingCodeKey } from '../../whatsapp/engine/node/node_modules/@whiskeysockets/baileys/lib/index.js'

/** @param {CodePool} pool @param {number} count */
async function until(pool, count) {
  while (pool.ready !== count) await sleep(5)
}

test('codes are made ahead, so many and no more, and each is given once', async () => {
  const pool = new CodePool(3)
  await until(pool, 3)
  const taken = await Promise.all(Array.from({ length: 6 }, () => pool.take()))
  assert.equal(new Set(taken.map(({ code }) => code)).size, 6)
  assert.equal(new Set(taken.map(({ salt }) => salt.toString('hex'))).size, 6)
  for (const { code, salt, key } of taken) {
    assert.match(code, /^[1-9A-HJ-NP-TV-Z]{8}$/)
    assert.deepEqual(await derivePairingCodeKey(code, salt), key)
  }
  await until(pool, 3)
})

test('who asks is served when none is ready, before any is made ahead', async () => {
  const pool = new CodePool(2)
  const taken = await Promise.all([pool.take(), pool.take(), pool.take()])
  assert.equal(pool.ready, 0)
  assert.equal(new Set(taken.map(({ code }) => code)).size, 3)
  await until(pool, 2)
})

test('a pool of none still gives codes', async () => {
  const pool = new CodePool(0)
  assert.match((await pool.take()).code, /^[1-9A-HJ-NP-TV-Z]{8}$/)
  assert.equal(pool.ready, 0)
})

test('nothing is made while something else needs the cores', async t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const pool = new CodePool(1)
  for (let turn = 0; turn < 4; turn++) {
    t.mock.timers.tick(200)
    pool.postpone()
  }
  // Whatever had begun before these would be over with them.
  for (let run = 0; run < 2; run++) await derivePairingCodeKey('ABCDEFGH', Buffer.alloc(32))
  assert.equal(pool.ready, 0)
  t.mock.timers.tick(250)
  while (pool.ready !== 1) await new Promise(setImmediate)
})
