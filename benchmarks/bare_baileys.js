// @ts-check
/**
 * The yardstick of time_to_code.py: bare Baileys asks for one pairing code, in a process
 * that stays warm. A line in is a phone, a line out the milliseconds from makeWASocket
 * to WhatsApp's acknowledgement of the code; the socket is closed in between.
 *
 * The code counts when the reply to companion_hello is in: its id is the next message
 * tag, because requestPairingCode sends the hello without waiting for the reply.
 */
import { createInterface } from 'node:readline'
import {
  Browsers, initAuthCreds, makeWASocket,
} from '../whatsapp/engine/node/node_modules/@whiskeysockets/baileys/lib/index.js'

const url = process.argv[2]
/** @type {any} */
const silent = {
  level: 'silent', trace() {}, debug() {}, info() {}, warn() {}, error() {}, child: () => silent,
}

/** @param {string} phone @returns {Promise<number>} milliseconds */
async function timeToCode(phone) {
  const started = performance.now()
  const sock = makeWASocket({
    waWebSocketUrl: url,
    logger: silent,
    browser: Browsers.ubuntu('Chrome'),
    auth: {
      creds: initAuthCreds(),
      keys: { get: async () => ({}), set: async () => {} },
    },
  })
  await /** @type {Promise<void>} */ (new Promise(resolve => {
    sock.ev.on('connection.update', update => update.qr && resolve())
  }))
  const [, prefix, count] = /** @type {RegExpExecArray} */ (
    /^(.*-)(\d+)$/.exec(sock.generateMessageTag())
  )
  const reply = sock.waitForMessage(`${prefix}${Number(count) + 1}`, 10_000)
  await sock.requestPairingCode(phone)
  const answer = await reply
  const took = performance.now() - started
  if (answer?.attrs?.type !== 'result') throw new Error('no acknowledgement')
  const closing = sock.end(undefined)
  const ws = /** @type {any} */ (sock.ws)
  ws.socket?.terminate()
  await closing
  return took
}

for await (const phone of createInterface({ input: process.stdin })) {
  process.stdout.write(`${await timeToCode(phone)}\n`)
}
process.exit(0)
