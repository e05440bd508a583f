// @ts-check
/**
 * The reference: Baileys as its documentation has it, without anything of ours, any number
 * of sessions in one process. Run with the same Node.js on the same server; bare.py is its
 * handle.
 *
 * In, one JSON object per line: {"id": 1, "do": …}; out: {"id": 1, "value": …} or {"id": 1,
 * "error": …}.
 *
 * code    {phone, folder?, trace?}  connect, ask for a code → {code, ms} once WhatsApp has
 *                                   acknowledged it; ms from makeWASocket on. With a folder
 *                                   creds and keys are kept by useMultiFileAuthState, else in
 *                                   memory; with a trace every call of the key store is noted
 * opened  {phone}                   wait until the session is open
 * resume  {folders, inFlight}       log in from the folders, so many at a time →
 *                                   {ms: [from the start until each was open]}
 * close   {phone?}                  end one session, or all
 * stats   {}                        → {open, messages, rss, heap}
 */
import { createInterface } from 'node:readline'
import { appendFileSync } from 'node:fs'
import * as baileys from '../whatsapp/engine/node/node_modules/@whiskeysockets/baileys/lib/index.js'

const { Browsers, BufferJSON, initAuthCreds, makeWASocket, useMultiFileAuthState } = baileys
const RESTART = 515

// libsignal prints session records; stdout is for the answers.
console.info = console.warn = console.log = () => {}
const url = process.argv[2]
/** @type {any} */
const silent = {
  level: 'silent', trace() {}, debug() {}, info() {}, warn() {}, error() {}, child: () => silent,
}

/** @typedef {{phone: string, folder?: string, trace?: string}} Options */

/** @type {Map<string, Session>} */
const sessions = new Map()
let messages = 0

class Session {
  /** @type {any} */
  sock
  isOpen = false
  #open = Promise.withResolvers()

  /** @param {Options} options */
  constructor(options) {
    this.options = options
    // Whoever does not wait for it must not end the process.
    this.#open.promise.catch(() => {})
  }

  async prepare() {
    const { folder, trace } = this.options
    const { state, saveCreds } = folder ? await useMultiFileAuthState(folder) : inMemory()
    this.creds = state.creds
    this.keys = trace ? traced(/** @type {any} */ (state.keys), trace) : state.keys
    this.saveCreds = () => {
      if (trace) note(trace, { creds: this.creds })
      return saveCreds()
    }
  }

  connect() {
    this.sock = makeWASocket({
      waWebSocketUrl: url,
      logger: silent,
      browser: Browsers.ubuntu('Chrome'),
      auth: { creds: /** @type {any} */ (this.creds), keys: /** @type {any} */ (this.keys) },
    })
    const { ev } = this.sock
    ev.on('creds.update', (/** @type {any} */ update) => {
      Object.assign(/** @type {any} */ (this.creds), update)
      void this.saveCreds?.()
    })
    ev.on('messages.upsert', (/** @type {any} */ upsert) => (messages += upsert.messages.length))
    ev.on('connection.update', (/** @type {any} */ update) => this.#onUpdate(update))
  }

  /** @param {any} update */
  #onUpdate({ connection, lastDisconnect }) {
    if (connection === 'open') {
      this.isOpen = true
      this.#open.resolve(undefined)
    }
    if (connection !== 'close') return
    this.isOpen = false
    const status = lastDisconnect?.error?.output?.statusCode
    if (status === RESTART) this.connect()
    else this.#open.reject(new Error(`closed: ${status}`))
  }

  get opened() {
    return this.#open.promise
  }

  /** @returns {Promise<{code: string, ms: number}>} */
  async code() {
    const began = performance.now()
    this.connect()
    const { sock } = this
    await /** @type {Promise<void>} */ (new Promise((resolve, reject) => {
      sock.ev.on('connection.update', (/** @type {any} */ { qr, connection }) => {
        if (qr) resolve()
        if (connection === 'close') reject(new Error('closed before it could ask'))
      })
    }))
    // requestPairingCode sends the hello with the next message tag and does not wait for
    // the reply, without which no code is good.
    const [, prefix, count] = /** @type {RegExpExecArray} */ (
      /^(.*-)(\d+)$/.exec(sock.generateMessageTag())
    )
    const reply = sock.waitForMessage(`${prefix}${Number(count) + 1}`, 60_000)
    const code = await sock.requestPairingCode(this.options.phone)
    const answer = await reply
    if (answer?.attrs?.type !== 'result') throw new Error('no acknowledgement')
    return { code, ms: performance.now() - began }
  }

  async close() {
    const ended = this.sock.end(undefined)
    this.sock.ws.socket?.terminate()
    await ended
  }
}

const inMemory = () => ({
  state: { creds: initAuthCreds(), keys: { get: async () => ({}), set: async () => {} } },
  saveCreds: () => {},
})

/** @param {string} path @param {object} entry */
const note = (path, entry) =>
  appendFileSync(path, `${JSON.stringify(entry, BufferJSON.replacer)}\n`)

/** @param {any} keys @param {string} path */
const traced = (keys, path) => ({
  get: async (/** @type {string} */ type, /** @type {string[]} */ ids) => {
    note(path, { get: { type, ids } })
    return keys.get(type, ids)
  },
  set: async (/** @type {Record<string, Record<string, unknown>>} */ data) => {
    const rows = Object.entries(data).flatMap(([t, values]) =>
      Object.entries(values ?? {}).map(([i, v]) => ({ t, i, v: v ?? null })))
    note(path, { set: rows })
    return keys.set(data)
  },
})

/** @param {Options} options */
async function start(options) {
  const session = new Session(options)
  await session.prepare()
  sessions.set(options.phone, session)
  return session
}

/** @type {Record<string, (command: any) => unknown>} */
const commands = {
  code: async options => (await start(options)).code(),

  opened: ({ phone }) => sessions.get(phone)?.opened,

  async resume({ folders, inFlight, trace }) {
    const began = performance.now()
    const waiting = [...folders].reverse()
    /** @type {number[]} */
    const ms = []
    const worker = async () => {
      for (let next = waiting.pop(); next; next = waiting.pop()) {
        const [phone, folder] = next
        const session = await start({ phone, folder, trace })
        session.connect()
        await session.opened
        ms.push(performance.now() - began)
      }
    }
    await Promise.all(Array.from({ length: inFlight }, worker))
    return { ms }
  },

  async close({ phone }) {
    const ending = phone ? [phone] : [...sessions.keys()]
    await Promise.all(ending.map(name => sessions.get(name)?.close()))
    for (const name of ending) sessions.delete(name)
  },

  stats() {
    const { rss, heapUsed } = process.memoryUsage()
    const open = [...sessions.values()].filter(({ isOpen }) => isOpen).length
    return { open, messages, rss, heap: heapUsed }
  },
}

/** @param {object} answer */
const say = answer => process.stdout.write(`${JSON.stringify(answer)}\n`)

// What Baileys leaves behind of ended sockets: without this the process would end.
process.on('unhandledRejection', () => {})
createInterface({ input: process.stdin })
  .on('line', async line => {
    const command = JSON.parse(line)
    try {
      say({ id: command.id, value: (await commands[command.do](command)) ?? null })
    } catch (error) {
      say({ id: command.id, error: String(error) })
    }
  })
  .on('close', () => process.exit(0))
