// @ts-check
/**
 * One client's connection: handshake, then either a registration (a client that is not
 * linked yet) or a login. Holds no timer of its own while nothing is wrong.
 */
import { Noise } from './handshake.js'
import * as logins from './logins.js'
import * as nodes from './nodes.js'
import * as pairing from './pairing.js'
import * as queries from './queries.js'
import { randomBytes } from './crypto.js'

/** @typedef {import('./baileys.js').BinaryNode} BinaryNode */

export class Connection {
  /** @type {'handshake' | 'registration' | 'login' | 'open' | 'ended'} */
  stage = 'handshake'
  /** @type {string | undefined} the number, once a hello or a login has named it */
  phone
  /** @type {string | undefined} of a device that is logged in */
  jid
  /** @type {import('./phone.js').Device | undefined} */
  device
  /** @type {Buffer} the client's static key, which names it to WhatsApp */
  noiseKey = Buffer.alloc(0)
  /** @type {import('./phone.js').Companion | undefined} what a registering client said */
  companion
  /** @type {string[]} */
  refs = []
  /** @type {Set<import('./phone.js').Phone>} phones that a code was asked for */
  codesFor = new Set()
  /** @type {((finish: BinaryNode | Error) => void) | undefined} a phone that typed a code */
  onFinish
  retired = false
  /** Answers to queries are withheld (fault `no-open`). */
  mute = false
  #noise = new Noise()
  #counted = true
  #inLogin = false
  #dropped = false
  /** @type {Map<string, (reply: BinaryNode | Error) => void> | undefined} */
  #asked
  /** @type {{due: number, run: () => void}[]} stanzas that a delay holds back */
  #outbox = []

  /** @type {{listeners: Function[], heard: Buffer[]} | undefined} */
  #ice

  /**
   * @param {import('./server.js').Server} server @param {any} ws
   * @param {import('node:stream').Duplex} socket below the WebSocket @param {number} id
   */
  constructor(server, ws, socket, id) {
    this.server = server
    this.ws = ws
    this.socket = socket
    this.id = id
    ws.on('message', (/** @type {Buffer} */ data) => this.#guard(() => this.#receive(data)))
    ws.on('close', () => this.#closed())
    // Without a listener a client's reset would end the process; 'close' follows anyway.
    ws.on('error', () => {})
  }

  get scope() {
    return { phone: this.phone, jid: this.jid }
  }

  /** @param {() => void} run */
  #guard(run) {
    try {
      run()
    } catch (error) {
      process.stderr.write(`connection ${this.id} (${this.stage}): ${/** @type {Error} */ (error).stack}\n`)
      this.drop()
    }
  }

  /** @param {Buffer} data */
  #receive(data) {
    if (this.stage === 'ended') return
    for (const frame of this.#noise.frames(data)) {
      if (this.#noise.stage === 'hello') this.#greet(frame)
      else if (this.#noise.stage === 'finish') this.#identify(frame)
      else this.#handle(nodes.decode(this.#noise.decrypt(frame)))
    }
  }

  /** @param {Buffer} clientHello */
  #greet(clientHello) {
    if (this.server.faults.use('no-server-hello')) return
    const answer = this.#noise.answer(clientHello)
    const slow = this.server.faults.use('slow-handshake')
    if (slow) setTimeout(() => this.ws.send(answer), slow.ms)
    else this.ws.send(answer)
  }

  /** @param {Buffer} clientFinish */
  #identify(clientFinish) {
    const { noiseKey, payload } = this.#noise.finish(clientFinish)
    this.noiseKey = noiseKey
    this.#handshakeOver()
    const registration = payload.devicePairingData
    const claimed = registration ? {} : logins.scope(payload)
    const failure = this.server.faults.use(
      'failure',
      claimed,
      fault => ['any', registration ? 'registration' : 'login'].includes(fault.on ?? 'any'),
    ) ?? this.#outdated(payload, claimed)
    if (registration) {
      this.stage = 'registration'
      this.server.journal.registrations++
      if (failure) return this.fail(failure.reason)
      return pairing.register(this, registration)
    }
    this.stage = 'login'
    logins.login(this, payload, failure)
  }

  /** @param {any} payload @param {import('./faults.js').Scope} claimed */
  #outdated({ userAgent }, claimed) {
    const { primary, secondary, tertiary } = userAgent.appVersion
    const version = [primary, secondary, tertiary]
    const fault = this.server.faults.use('outdated', claimed, ({ below = [] }) => {
      const differs = version.findIndex((part, index) => part !== below[index])
      return differs >= 0 && version[differs] < below[differs]
    })
    return fault && { ...fault, reason: 405 }
  }

  #handshakeOver() {
    if (this.#counted) this.server.journal.handshakeOver()
    this.#counted = false
  }

  loginStarted() {
    this.#inLogin = true
    this.server.journal.loginStarted()
  }

  /** A login is over when the client is through with it, or gone. */
  loginOver() {
    if (this.#inLogin) this.server.journal.loginOver()
    this.#inLogin = false
  }

  /** @param {BinaryNode} node */
  #handle(node) {
    const { id, type } = node.attrs
    const reply = type === 'result' || type === 'error' ? this.#asked?.get(id ?? '') : undefined
    if (node.tag === 'iq' && reply) {
      this.#asked?.delete(id ?? '')
      return reply(node)
    }
    if (node.tag === 'iq' && nodes.child(node, 'link_code_companion_reg')) {
      return pairing.linkCode(this, node)
    }
    if (node.tag === 'iq' && (type === 'get' || type === 'set' || node.attrs.xmlns)) {
      if (this.mute) return
      return queries.answer(this, node)
    }
    if (node.tag === 'message' || node.tag === 'receipt') queries.acknowledge(this, node)
    // ib, presence, ack, chatstate: nothing to answer.
  }

  /**
   * Sends stanzas in one TCP chunk, behind everything that a delay still holds back.
   *
   * @param {...BinaryNode} stanzas
   */
  send(...stanzas) {
    this.post(() => {
      if (this.#ice || this.ws.readyState !== 1) return
      this.ws.send(Buffer.concat(stanzas.map(node => this.#noise.encrypt(nodes.encode(node)))))
    })
  }

  /** @param {() => void} run */
  post(run) {
    const delay = this.server.faults.use('delay', this.scope)?.ms ?? 0
    if (!delay && !this.#outbox.length) return run()
    const last = this.#outbox.at(-1)?.due ?? 0
    this.#outbox.push({ due: Math.max(Date.now() + delay, last), run })
    if (this.#outbox.length === 1) this.#flushLater()
  }

  #flushLater() {
    setTimeout(() => {
      while (this.#outbox.length && this.#outbox[0].due <= Date.now()) this.#outbox.shift()?.run()
      if (this.#outbox.length) this.#flushLater()
    }, Math.max(0, this.#outbox[0].due - Date.now()))
  }

  /**
   * Sends a query of the server's own and waits for the client's reply.
   *
   * @param {BinaryNode} node @param {number} timeoutMs @returns {Promise<BinaryNode>}
   */
  ask(node, timeoutMs) {
    const id = /** @type {string} */ (node.attrs.id)
    this.#asked ??= new Map()
    const asked = this.#asked
    if (this.stage === 'ended') return Promise.reject(new Error('the client closed the connection'))
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => settle(new Error('the client did not answer')), timeoutMs)
      /** @param {BinaryNode | Error} reply */
      const settle = reply => {
        clearTimeout(timer)
        asked.delete(id)
        if (reply instanceof Error) reject(reply)
        else resolve(reply)
      }
      asked.set(id, settle)
      this.send(node)
    })
  }

  /** @param {number | string} [reason] */
  fail(reason = 500) {
    this.end({ tag: 'failure', attrs: { reason: String(reason), location: 'sim' } })
  }

  /**
   * The server's last words, then the close. The device counts as gone from here on: the
   * server has ended the stream, whatever the client does with the TCP connection.
   *
   * @param {...BinaryNode} last
   */
  end(...last) {
    if (last.length) this.send(...last)
    this.#leave(causeOf(last[0]))
    this.post(() => {
      if (!this.#ice) this.ws.close()
    })
  }

  /** Cuts TCP, without a word. */
  drop() {
    this.#dropped = true
    this.ws.terminate()
  }

  /**
   * A dead peer: nothing is answered or sent, not even a WebSocket's close or ping. What
   * comes in meanwhile is kept for the thaw. That the client cuts TCP is still noticed,
   * or the journal would count a socket that is gone.
   *
   * @param {boolean} on
   */
  freeze(on) {
    if (on && !this.#ice) {
      const ice = { listeners: this.socket.listeners('data'), heard: [] }
      this.socket.removeAllListeners('data')
      this.socket.on('data', chunk => this.#ice?.heard.push(chunk))
      this.#ice = ice
    } else if (!on && this.#ice) {
      const { listeners, heard } = this.#ice
      this.#ice = undefined
      this.socket.removeAllListeners('data')
      for (const listener of listeners) this.socket.on('data', /** @type {any} */ (listener))
      for (const chunk of heard) this.socket.emit('data', chunk)
    }
  }

  /** A frame that no key decrypts. */
  sendGarbage() {
    this.ws.send(Buffer.concat([Buffer.from([0, 0, 64]), randomBytes(64)]))
  }

  /** A frame that decrypts well into something that is no node: 240 is no token. */
  sendUndecodable() {
    this.ws.send(this.#noise.encrypt(Buffer.from([0, 248, 1, 240])))
  }

  /** @param {string} cause */
  #leave(cause) {
    const { device, jid } = this
    if (this.stage === 'ended') return
    this.stage = 'ended'
    this.loginOver()
    pairing.forget(this)
    if (device && jid) {
      device.connections.delete(this)
      this.server.journal.deviceClosed(jid, this.id, cause)
    }
    const gone = new Error('the client closed the connection')
    this.onFinish?.(gone)
    for (const settle of this.#asked?.values() ?? []) settle(gone)
  }

  #closed() {
    this.#handshakeOver()
    this.#leave(this.#dropped ? 'dropped' : 'client')
    if (this.device && this.jid) this.server.journal.socketClosed(this.jid, this.id)
    this.#outbox = []
    this.server.disconnected(this)
  }
}

/**
 * What the journal calls the end of a device's socket.
 *
 * @param {BinaryNode | undefined} word the server's last one
 */
function causeOf(word) {
  if (!word) return 'server'
  const conflict = nodes.child(word, 'conflict')?.attrs.type
  return conflict ?? `${word.tag} ${word.attrs.code ?? word.attrs.reason}`
}
