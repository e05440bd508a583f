// @ts-check
/** A contact who writes to many devices, and how long each takes to say that it has read. */
import { setTimeout as sleep } from 'node:timers/promises'
import * as nodes from './nodes.js'
import { sendText } from './signal.js'

/** An overloaded client reads late; one whose connection has ended never does. */
const RECEIPT_TIMEOUT_MS = 60_000
const LOOK_MS = 500

/**
 * Writes to each device once, evenly spread, and waits for the receipts.
 *
 * @param {import('./server.js').Server} server @param {import('./phone.js').Phone} contact
 * @param {string[]} jids @param {number} seconds between the first and the last
 * @returns {Promise<{sent: number, read: number, ms: number[]}>} ms: of those that were read
 */
export async function traffic(server, contact, jids, seconds) {
  const began = performance.now()
  /** @type {Promise<number | undefined>[]} */
  const answers = []
  for (const [index, jid] of jids.entries()) {
    const wait = began + (index / jids.length) * seconds * 1000 - performance.now()
    if (wait > 1) await sleep(wait)
    const { user = '', device: id = 0 } = nodes.parseJid(jid) ?? {}
    const device = server.phones.find(user)?.devices.get(id)
    if (!device) throw new Error(`${jid} is not linked`)
    if (!device.connections.size) continue
    const answer = tell(server, contact, device)
    answer.catch(() => {}) // told by Promise.all, which comes later
    answers.push(answer)
  }
  const ms = (await Promise.all(answers)).filter(took => took !== undefined)
  return { sent: answers.length, read: ms.length, ms }
}

/**
 * @param {import('./server.js').Server} server @param {import('./phone.js').Phone} contact
 * @param {import('./phone.js').Device} device @returns {Promise<number | undefined>}
 */
async function tell(server, contact, device) {
  const began = performance.now()
  const connection = [...device.connections].at(-1)
  let id
  try {
    id = await sendText(contact, device, 'Добрый день')
  } catch (error) {
    if (device.connections.size) throw error
    return undefined // went off meanwhile
  }
  const read = Promise.withResolvers()
  server.receipts.set(id, () => read.resolve(performance.now() - began))
  const looking = setInterval(() => {
    const late = performance.now() - began > RECEIPT_TIMEOUT_MS
    if (late || connection?.stage === 'ended') read.resolve(undefined)
  }, LOOK_MS)
  const took = await read.promise
  clearInterval(looking)
  server.receipts.delete(id)
  return took
}
