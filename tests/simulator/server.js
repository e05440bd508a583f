// @ts-check
/** The WhatsApp server: the port, its connections, and the phones that it knows. */
import { createServer } from 'node:http'
import { WebSocketServer } from './baileys.js'
import { Connection } from './connection.js'
import { Faults } from './faults.js'
import { Journal } from './journal.js'
import { Phone } from './phone.js'

const HOST = '127.0.0.1'

/** Phones by number; a number that nobody spoke of yet is an account like any other. */
class Phones {
  /** @type {Map<string, Phone>} */
  #phones = new Map()
  /** @type {Map<string, Phone>} */
  #byLid = new Map()

  /** @param {Server} server */
  constructor(server) {
    this.server = server
  }

  /** @param {string} number */
  get(number) {
    let phone = this.#phones.get(number)
    if (!phone) {
      // A LID is a number that says nothing about the phone's; 15 digits as seen.
      const lid = String(100_000_000_000_001 + this.#phones.size)
      phone = new Phone(this.server, number, lid)
      this.#phones.set(number, phone)
      this.#byLid.set(lid, phone)
    }
    return phone
  }

  /** @param {string} number */
  find(number) {
    return this.#phones.get(number)
  }

  /** @param {string} lid */
  byLid(lid) {
    return this.#byLid.get(lid)
  }

  all() {
    return [...this.#phones.values()]
  }
}

/** @typedef {{all?: boolean, phone?: string, jid?: string, stage?: string}} Selection */

export class Server {
  journal = new Journal()
  faults = new Faults(kind => kind === 'refuse' && this.#openOrClose())
  phones = new Phones(this)
  /** @type {Set<Connection>} */
  connections = new Set()
  /** @type {Map<string, Connection>} by QR ref */
  refs = new Map()
  /** @type {Map<string, () => void>} by message: who waits for its receipt */
  receipts = new Map()
  #nextConnection = 1
  #port = 0
  /** @type {Set<import('node:stream').Duplex>} upgrades that are never answered */
  #ignored = new Set()
  #http = createServer((_, response) => response.writeHead(426).end())
  #ws = new WebSocketServer({
    noServer: true, perMessageDeflate: false, maxPayload: 16 << 20, clientTracking: false,
  })

  constructor() {
    this.#http.on('upgrade', (request, socket, head) => this.#upgrade(request, socket, head))
    this.#http.on('clientError', (_, socket) => socket.destroy())
  }

  get url() {
    return `ws://${HOST}:${this.#port}/ws/chat`
  }

  /** @param {number} port */
  async listen(port) {
    await new Promise((resolve, reject) => {
      this.#http.once('error', reject)
      this.#http.listen({ host: HOST, port, backlog: 4096 }, () => resolve(undefined))
    })
    this.#port = /** @type {import('node:net').AddressInfo} */ (this.#http.address()).port
  }

  /** Connections that exist stay: only new ones are refused. */
  #openOrClose() {
    const refuse = this.faults.has('refuse')
    if (refuse && this.#http.listening) this.#http.close()
    if (!refuse && !this.#http.listening) {
      this.#http.listen({ host: HOST, port: this.#port, backlog: 4096 })
    }
  }

  /**
   * @param {import('node:http').IncomingMessage} request
   * @param {import('node:stream').Duplex} socket @param {Buffer} head
   */
  #upgrade(request, socket, head) {
    socket.on('error', () => {})
    if (this.faults.use('blackhole')) {
      this.#ignored.add(socket)
      socket.on('close', () => this.#ignored.delete(socket))
      socket.on('end', () => socket.destroy())
      socket.resume()
      return
    }
    const kept = this.faults.use('keepalive-503')
    const http = kept ? { status: 503, keepAlive: true } : this.faults.use('http')
    if (http) {
      const status = `HTTP/1.1 ${http.status ?? 503} Simulated\r\nContent-Length: 0\r\n`
      if (http.keepAlive) socket.write(`${status}Connection: keep-alive\r\n\r\n`)
      else socket.end(`${status}Connection: close\r\n\r\n`)
      return
    }
    this.#ws.handleUpgrade(request, socket, head, (/** @type {any} */ ws) =>
      this.#accept(ws, socket))
  }

  /** @param {any} ws @param {import('node:stream').Duplex} socket */
  #accept(ws, socket) {
    const connection = new Connection(this, ws, socket, this.#nextConnection++)
    this.connections.add(connection)
    this.journal.connected()
    const cut = this.faults.use('drop-after')
    if (cut) setTimeout(() => connection.drop(), cut.ms ?? 0)
  }

  /** @param {Connection} connection */
  disconnected(connection) {
    this.connections.delete(connection)
    this.journal.disconnected()
  }

  /** Back to a server without faults. */
  heal() {
    this.faults.clear()
    for (const connection of this.connections) connection.freeze(false)
    for (const socket of this.#ignored) socket.destroy()
  }

  /** @param {Selection} selection @returns {Connection[]} */
  select({ all, phone, jid, stage }) {
    if (!all && !phone && !jid && !stage) throw new Error('say which: all, phone, jid or stage')
    return [...this.connections].filter(
      connection =>
        (!phone || connection.phone === phone) &&
        (!jid || connection.jid === jid) &&
        (!stage || connection.stage === stage),
    )
  }
}
