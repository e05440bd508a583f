// @ts-check
/**
 * The published PostgreSQL store for Baileys, behind a line protocol: key_store.py installs
 * the package into a folder of its own and lets it replay the same calls.
 *
 * In: {"record": path, "salons": [ids]}; out: {"ms": {"get": […], "set": […]}}, of every
 * call of every salon, all salons at once.
 */
import { createInterface } from 'node:readline'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { BufferJSON } from '../whatsapp/engine/node/node_modules/@whiskeysockets/baileys/lib/index.js'

const [, , folder, url, connections] = process.argv
const require = createRequire(`${folder}/package.json`)
const { Pool } = require('pg')
const { usePostgreSQLAuthState } = require('postgres-baileys')

const pool = new Pool({ connectionString: url, max: Number(connections) })
// The package does not wait for the table that it makes.
await pool.query(
  'CREATE TABLE IF NOT EXISTS auth_data (session_key VARCHAR(255) PRIMARY KEY, data TEXT NOT NULL)',
)

/** @param {string} salon @param {any[]} entries @param {{get: number[], set: number[]}} ms */
async function replay(salon, entries, ms) {
  const { state, saveCreds } = await usePostgreSQLAuthState(pool, salon)
  for (const { get, set, creds } of entries) {
    const began = performance.now()
    if (get) await state.keys.get(get.type, get.ids)
    else if (set) await state.keys.set(set)
    else {
      Object.assign(state.creds, creds)
      await saveCreds()
    }
    ms[get ? 'get' : 'set'].push(performance.now() - began)
  }
}

/** As Baileys hands it over: by type and id. @param {{t: string, i: string, v: unknown}[]} rows */
function byType(rows) {
  /** @type {Record<string, Record<string, unknown>>} */
  const data = {}
  for (const { t, i, v } of rows) (data[t] ??= {})[i] = v
  return data
}

for await (const line of createInterface({ input: process.stdin })) {
  const { record, salons } = JSON.parse(line)
  const entries = readFileSync(record, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map(text => JSON.parse(text, BufferJSON.reviver))
    .map(entry => (entry.set ? { set: byType(entry.set) } : entry))
  const ms = { get: [], set: [] }
  const began = performance.now()
  await Promise.all(salons.map((/** @type {string} */ salon) => replay(salon, entries, ms)))
  const seconds = (performance.now() - began) / 1000
  process.stdout.write(`${JSON.stringify({ ms, seconds })}\n`)
}
await pool.end()
