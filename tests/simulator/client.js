// @ts-check
/**
 * Bare Baileys behind JSON lines, for the simulator's own tests: any number of clients in
 * one process, auth state in memory, nothing repaired and nothing hidden. It connects
 * again only after 515, as every user of Baileys must.
 *
 * In:  {"client": "a", "do": "connect", "url": ...} · code · qr · end · logout · send
 *      · dump · load
 * Out: {"client": "a", "event": "qr" | "open" | "close" | "code" | "creds" | ...}
 */
import { createInterface } from 'node:readline'
import * as baileys from '../../whatsapp/engine/node/node_modules/@whiskeysockets/baileys/lib/index.js'

const { makeWASocket, initAuthCreds, Browsers, BufferJSON, proto } = baileys

console.info = console.warn = console.log = () => {}
/** @type {any} */
const silent = {
  level: 'silent', trace() {}, debug() {}, info() {}, warn() {}, error() {}, child: () => silent,
}

/** @type {Map<string, Client>} */
const clients = new Map()

/** @param {object} event */
const tell = event => process.stdout.write(`${JSON.stringify(event)}\n`)

/** @param {string} key @param {any} value */
const revive = (key, value) =>
  value?.type === 'Buffer' && Array.isArray(value.data)
    ? Buffer.from(value.data)
    : BufferJSON.reviver(key, value)

class Client {
  creds = initAuthCreds()
  /** @type {Map<string, any>} */
  keys = new Map()
  /** @type {any} */
  sock

  /** @param {string} name */
  constructor(name) {
    this.name = name
  }

  /** @param {object} event */
  tell(event) {
    tell({ client: this.name, ...event })
  }

  /** @param {{url?: string, browser?: [string, string, string], timeout?: number, creds?: object, keepAlive?: number, qrMs?: number}} command */
  connect(command) {
    Object.assign(this.creds, command.creds)
    const sock = makeWASocket({
      waWebSocketUrl: command.url,
      logger: silent,
      browser: command.browser ?? Browsers.ubuntu('Chrome'),
      connectTimeoutMs: command.timeout ?? 20_000,
      keepAliveIntervalMs: command.keepAlive ?? 30_000,
      qrTimeout: command.qrMs,
      auth: { creds: this.creds, keys: /** @type {any} */ (this.store()) },
    })
    this.sock = sock
    sock.ev.on('creds.update', update => {
      Object.assign(this.creds, update)
      this.tell({
        event: 'creds', keys: Object.keys(update), me: this.creds.me,
        linked: Boolean(this.creds.account), registered: this.creds.registered,
        appStateKey: this.creds.myAppStateKeyId, adv: this.creds.advSecretKey,
      })
    })
    sock.ev.on('messages.upsert', ({ messages }) => {
      for (const { key, message } of messages) {
        this.tell({ event: 'message', from: key.remoteJid, text: message?.conversation })
      }
    })
    sock.ev.on('connection.update', update => {
      if (update.qr) this.tell({ event: 'qr', qr: update.qr })
      if (update.isNewLogin) this.tell({ event: 'paired' })
      if (update.connection === 'open') this.tell({ event: 'open', me: this.creds.me })
      if (update.connection !== 'close') return
      const error = /** @type {any} */ (update.lastDisconnect?.error)
      this.tell({ event: 'close', status: error?.output?.statusCode, error: error?.message })
      if (error?.output?.statusCode === 515) this.connect(command)
    })
    sock.ws.on('CB:iq,type:error', node => this.tell({ event: 'iq-error', error: node.content?.[0]?.attrs }))
    sock.ws.on('CB:iq,type:result,link_code_companion_reg', node => {
      this.tell({ event: 'acknowledged', stage: node.content[0].attrs.stage })
    })
    sock.ws.on('CB:notification', node => {
      this.tell({ event: 'notification', type: node.attrs.type, child: node.content?.[0]?.tag })
    })
    sock.ws.on('unexpected-response', (_, response) => {
      this.tell({ event: 'http', status: response.statusCode })
    })
  }

  store() {
    const keys = this.keys
    return {
      /** @param {string} type @param {string[]} ids */
      get: async (type, ids) =>
        Object.fromEntries(
          ids.filter(id => keys.has(`${type}/${id}`)).map(id => [id, keys.get(`${type}/${id}`)]),
        ),
      /** @param {Record<string, Record<string, any>>} data */
      set: async data => {
        for (const [type, values] of Object.entries(data)) {
          for (const [id, value] of Object.entries(values)) {
            if (value) keys.set(`${type}/${id}`, value)
            else keys.delete(`${type}/${id}`)
          }
        }
      },
    }
  }
}

/** @type {Record<string, (client: Client, command: any) => unknown>} */
const COMMANDS = {
  // As the previous service wrote its rows: Buffers as arrays, Uint8Arrays by index.
  dump: client => {
    const keys = [...client.keys].map(([name, value]) => {
      const at = name.indexOf('/')
      return [name.slice(0, at), name.slice(at + 1), JSON.stringify(value)]
    })
    client.tell({ event: 'dump', creds: JSON.stringify(client.creds), keys })
  },
  // As Baileys' own file store reads, and arrays of bytes, too, as the previous service.
  load: (client, { creds, keys }) => {
    client.creds = JSON.parse(creds, revive)
    client.keys.clear()
    for (const [type, id, text] of keys) {
      const value = JSON.parse(text, revive)
      const isSyncKey = type === 'app-state-sync-key'
      client.keys.set(
        `${type}/${id}`,
        isSyncKey ? proto.Message.AppStateSyncKeyData.fromObject(value) : value,
      )
    }
    client.tell({ event: 'loaded' })
  },
  connect: (client, command) => client.connect(command),
  code: async (client, { phone }) => {
    client.tell({ event: 'code', code: await client.sock.requestPairingCode(phone) })
  },
  end: client => client.sock.end(undefined),
  logout: client => client.sock.logout(),
  send: async (client, { to, text }) => {
    const sent = await client.sock.sendMessage(to, { text })
    client.tell({ event: 'sent', id: sent.key.id })
  },
}

process.on('unhandledRejection', (/** @type {any} */ error) => tell({ event: 'rejection', error: error?.message }))
createInterface({ input: process.stdin })
  .on('line', async line => {
    const command = JSON.parse(line)
    const name = command.client
    if (!clients.has(name)) clients.set(name, new Client(name))
    const client = /** @type {Client} */ (clients.get(name))
    try {
      await COMMANDS[command.do](client, command)
    } catch (error) {
      client.tell({ event: 'error', do: command.do, error: /** @type {Error} */ (error).message })
    }
  })
  .on('close', () => process.exit(0))
