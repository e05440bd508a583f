// @ts-check
/** A contact who writes to many devices, and how long each takes to say that it has read. */
import { setTimeout as sleep } from 'node:timers/promises'
import * as nodes from './nodes.js'
import { sendText } from './signal.js'

/** A device that is overloaded answers late, one that is off never does. */
const RECEIPT_TIMEOUT_MS = 60_000

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
    if (device.connections.size) answers.push(tell(server, contact, device))
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
  let id
  try {
    id = await sendText(contact, device, 'Добрый день')
  } catch {
    return undefined // went off meanwhile
  }
  const read = Promise.withResolvers()
  server.receipts.set(id, () => read.resolve(performance.now() - began))
  const timer = setTimeout(() => read.resolve(undefined), RECEIPT_TIMEOUT_MS)
  const took = await read.promise
  clearTimeout(timer)
  server.receipts.delete(id)
  return took
}
