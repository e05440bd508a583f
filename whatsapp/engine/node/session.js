// @ts-check
/**
 * One Baileys socket for one salon, from open to close. It never reconnects and decides
 * nothing: it says what happened, and nothing any more once it is closed.
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  Browsers,
  buildAckStanza,
  getBinaryNodeChild,
  getBinaryNodeChildren,
  makeWASocket,
} from '@whiskeysockets/baileys'
import { isLinked, MemoryKeys, serialise, StoredAuth } from './auth-state.js'
import { describe, Ended } from './ending.js'
import { guardListeners, isUndecryptable, limitClosing } from './guard.js'
import * as log from './log.js'
import { Refused, requestCode, unlink } from './pairing.js'

/** @typedef {import('@whiskeysockets/baileys').BinaryNode} BinaryNode */
/** @typedef {import('@whiskeysockets/baileys').AuthenticationCreds} Creds */

/** A canonical name: WhatsApp gives no codes to made-up ones. */
const BROWSER = Browsers.ubuntu('Chrome')
/** Baileys' own clock of QR refs (socket.js, "QR gen"). */
const FIRST_REF_MS = 60_000
const NEXT_REF_MS = 20_000
/** A busy WhatsApp or Node.js must not leave us in the list of the phone. */
const UNLINK_MS = 5_000
/** A peer that does not answer our close is not waited for (ws would wait 30 s). */
const CLOSE_GRACE_MS = 300
/** A store that hangs must not keep the news of an end from Python. */
const DRAIN_MS = 5_000
const STORE_MS = 30_000
const SECRET_FIELD = 3
const PASSKEY_NOTIFICATIONS = ['passkey_prologue_request', 'crsc_continuation']
const REFRESH_CHILDREN = ['companion_reg_refresh', 'pair-device-rotate-qr']

/**
 * @typedef {object} Settings
 * @property {string} [wsUrl] @property {[number, number, number]} [version]
 * @property {number} connectTimeoutMs @property {number} queryTimeoutMs
 * @property {number} keepAliveMs @property {number} [qrMs] instead of Baileys' own clock
 */

export class Session {
  /** When WhatsApp was last heard, epoch ms. @type {number | undefined} */
  heardAt
  /** Whether it was since the last proof of life. */
  heard = false
  #opened = false
  #linked
  #retired = false
  #quiet = false
  #entered = false
  #asking = false
  #codeShown = false
  #firstQr = Promise.withResolvers()
  /** @type {PromiseWithResolvers<import('./ending.js').Ending>} */
  #ended = Promise.withResolvers()
  #passkey = Promise.withResolvers()
  #gone = Promise.withResolvers()
  /** @type {Promise<void> | undefined} */
  #closing
  /** @type {{ref: string, until: number} | undefined} */
  #qr
  #refsLeft = 0

  /**
   * @param {object} options
   * @param {string} options.label for the log
   * @param {Creds} options.creds this socket's own copy
   * @param {boolean} options.stored whether creds and keys live in the store, or here
   * @param {Settings} options.settings
   * @param {(event: string, data?: object) => void} options.emit
   * @param {(request: object, timeoutMs: number) => Promise<any>} options.ask the store
   * @param {import('./codes.js').CodePool} options.codes
   * @param {() => void} options.onGone
   */
  constructor({ label, creds, stored, settings, emit, ask, codes, onGone }) {
    this.label = label
    this.creds = creds
    this.settings = settings
    this.codes = codes
    this.onGone = onGone
    this.emit = (/** @type {string} */ event, /** @type {object} */ data = {}) => {
      if (!this.#quiet) emit(event, data)
    }
    this.#linked = isLinked(creds)
    this.memory = stored ? undefined : new MemoryKeys()
    this.stored = stored
      ? new StoredAuth({
          label,
          known: serialise(creds),
          load: (type, ids) => ask({ rq: 'get', type, ids }, STORE_MS),
          save: (text, keys, n) => ask({ rq: 'save', creds: text, keys, n }, STORE_MS),
          onRefused: () => this.#end(new Ended('store', 'the store refused a write')),
          onHeld: () => this.#end(new Ended('held', 'writes could not be stored for too long')),
        })
      : undefined
    this.#watchSecret()
    this.sock = this.#connect()
  }

  #connect() {
    const { settings } = this
    const sock = makeWASocket({
      ...(settings.wsUrl && { waWebSocketUrl: settings.wsUrl }),
      ...(settings.version && { version: settings.version }),
      auth: { creds: this.creds, keys: this.stored ?? /** @type {any} */ (this.memory) },
      browser: BROWSER,
      logger: log.baileysLogger(this.label),
      connectTimeoutMs: settings.connectTimeoutMs,
      defaultQueryTimeoutMs: settings.queryTimeoutMs,
      keepAliveIntervalMs: settings.keepAliveMs,
      qrTimeout: settings.qrMs,
      markOnlineOnConnect: false,
      syncFullHistory: false,
      shouldSyncHistoryMessage: () => false,
      getMessage: async () => undefined,
    })
    const { socket } = /** @type {any} */ (sock.ws)
    socket.once('close', this.#gone.resolve)
    guardListeners(sock.ws, {
      onBadFrame: error => this.#onBadFrame(error),
      onError: (event, error) => log.debug(`${this.label}: ${event}: ${log.mask(error)}`),
    })
    limitClosing(sock.ws, CLOSE_GRACE_MS)
    this.#listen(sock)
    return sock
  }

  /** @param {unknown} error what the socket itself could not read */
  #onBadFrame(error) {
    if (this.#retired) return
    log.warning(`${this.label}: bad frame: ${log.mask(error)}`)
    if (isUndecryptable(error)) this.#end(new Ended('frame', 'undecryptable frame'))
  }

  /** Baileys changes the secret without an event when a code is entered, right or wrong. */
  #watchSecret() {
    let secret = this.creds.advSecretKey
    Object.defineProperty(this.creds, 'advSecretKey', {
      enumerable: true,
      get: () => secret,
      set: value => {
        if (value === secret) return
        secret = value
        this.#drawQr()
      },
    })
  }

  // What happens ------------------------------------------------------------------------

  /** @param {import('@whiskeysockets/baileys').WASocket} sock */
  #listen({ ev, ws }) {
    ev.on('creds.update', () => this.#onCreds())
    ev.on('connection.update', update => {
      if (update.qr) this.#onQr(update.qr)
      if (update.connection === 'open') this.#onOpen()
      if (update.connection === 'close') void this.#onClose(update.lastDisconnect?.error)
    })
    ws.on('frame', () => {
      this.heardAt = Date.now()
      this.heard = true
    })
    ws.on('unexpected-response', (request, response) => {
      response.resume()
      this.#end(new Ended('http', `HTTP ${response.statusCode}`, response.statusCode))
      request.destroy()
    })
    ws.on('CB:iq,type:set,pair-device', iq => {
      this.#refsLeft = getBinaryNodeChildren(getBinaryNodeChild(iq, 'pair-device'), 'ref').length
    })
    ws.on('CB:notification', node => this.#onNotification(node))
    ws.on('CB:iq,type:error', () => {
      // The only query between the entry of a code and pair-success is companion_finish.
      if (this.#entered && !this.#linked && !this.#asking) this.#onRejected()
    })
  }

  #onCreds() {
    if (this.#retired) return
    const text = serialise(this.creds)
    if (!this.#linked && isLinked(this.creds)) {
      this.#linked = true
      this.#qr = undefined
      this.emit('paired', {
        creds: text,
        keys: this.memory?.toText() ?? null,
        jid: this.creds.me?.id,
        platform: this.creds.platform ?? null,
      })
    }
    this.stored?.setCreds(text)
  }

  #onOpen() {
    if (this.#retired) return
    this.#opened = true
    const { id, lid, name } = this.creds.me ?? { id: '' }
    this.emit('opened', { jid: id, lid: lid ?? null, name: name ?? null })
  }

  /** @param {string} text */
  #onQr(text) {
    // Baileys' timer of refs goes on after pair-success.
    if (this.#retired || this.#linked) return
    const { qrMs } = this.settings
    const lifetime = qrMs ?? (this.#qr ? NEXT_REF_MS : FIRST_REF_MS)
    this.#qr = { ref: text, until: Date.now() + lifetime }
    this.#refsLeft--
    this.#drawQr()
    this.#firstQr.resolve(undefined)
  }

  /**
   * Baileys reads the secret once, when the refs come. A QR with an old one is poison:
   * who scans it ends the socket with "Invalid account signature".
   */
  #drawQr() {
    if (!this.#qr || this.#retired || this.#linked) return
    const fields = this.#qr.ref.split(',')
    fields[SECRET_FIELD] = this.creds.advSecretKey
    const lifetime = Math.max(this.#qr.until - Date.now(), 0)
    const further = Math.max(this.#refsLeft, 0) * (this.settings.qrMs ?? NEXT_REF_MS)
    this.emit('qr', {
      qr: fields.join(','),
      lifetime_s: lifetime / 1000,
      window_s: (lifetime + further) / 1000,
    })
  }

  /** @param {BinaryNode} node */
  #onNotification(node) {
    if (this.#retired) return
    const { type } = node.attrs
    if (!this.creds.me) this.#acknowledge(node)
    if (type === 'link_code_companion_reg') this.#onLinkCode(node)
    if (type === 'companion_reg_refresh') this.#onRefresh(node)
    if (PASSKEY_NOTIFICATIONS.includes(type)) {
      this.emit('passkey')
      this.#passkey.resolve(undefined)
    }
  }

  /** Baileys reads `me.id` for it and fails on a socket that is not linked yet. @param {BinaryNode} node */
  #acknowledge(node) {
    this.sock.sendNode(buildAckStanza(node)).catch(error => {
      log.debug(`${this.label}: no acknowledgement: ${log.mask(error)}`)
    })
  }

  /** The phone's half of the pairing code. @param {BinaryNode} node */
  #onLinkCode(node) {
    if (this.#linked) return
    const stage = getBinaryNodeChild(node, 'link_code_companion_reg')?.attrs.stage
    if (stage === 'refresh_code') return this.#expireCode(stage)
    this.#entered = true
    this.emit('code_entered')
  }

  #onRejected() {
    this.#entered = false
    this.emit('code_rejected')
  }

  /**
   * WhatsApp retires what an unlinked device advertises, since July 2026. WhatsApp Web
   * makes a new adv secret and draws the same ref again (WhiskeySockets/Baileys#2765); a
   * secret that a phone has just agreed on by code must stay.
   *
   * @param {BinaryNode} node
   */
  #onRefresh(node) {
    const known = REFRESH_CHILDREN.some(tag => getBinaryNodeChild(node, tag))
    if (!known || this.#linked || this.#entered) return
    this.#expireCode('companion_reg_refresh')
    this.creds.advSecretKey = randomBytes(32).toString('base64')
  }

  /** @param {string} by */
  #expireCode(by) {
    if (!this.#codeShown) return
    this.#codeShown = false
    this.emit('code_expired', { by })
  }

  // What is asked -----------------------------------------------------------------------

  /**
   * May be called right after the socket was made: the hello waits for the first refs.
   *
   * @param {string} phone @param {number} timeoutMs
   * @returns {Promise<string>} @throws {Refused}
   */
  async requestCode(phone, timeoutMs) {
    const deadline = Date.now() + timeoutMs
    const prepared = this.codes.take()
    const refused = this.#refusal()
    this.#asking = true
    try {
      await Promise.race([this.#registeredBy(deadline), refused])
      const asked = requestCode({
        sock: this.sock,
        phone,
        prepared: await prepared,
        browser: BROWSER,
        deadline,
        onAcknowledged: () => {
          this.#entered = false
          this.#codeShown = true
        },
      })
      return await Promise.race([asked, refused])
    } catch (error) {
      // The query notices a lost connection before Baileys says why it was lost.
      const isCut = error instanceof Refused && error.kind === 'closed' && !error.more
      if (isCut) await Promise.race([refused, sleep(2 * CLOSE_GRACE_MS)])
      throw error
    } finally {
      this.#asking = false
    }
  }

  /** What can end the wait for a code from outside. @returns {Promise<never>} */
  #refusal() {
    const refusal = Promise.race([
      this.#passkey.promise.then(() => {
        throw new Refused('passkey', 'WhatsApp asks for a passkey')
      }),
      this.#ended.promise.then(ending => {
        throw this.#refusedBy(ending)
      }),
    ])
    // Usually nobody waits for it any more when it comes.
    refusal.catch(() => {})
    return refusal
  }

  /** @param {number} deadline */
  async #registeredBy(deadline) {
    const timer = new AbortController()
    const late = sleep(deadline - Date.now(), true, { signal: timer.signal }).catch(() => false)
    const isLate = await Promise.race([this.#firstQr.promise, late])
    timer.abort()
    if (isLate !== true) return
    if (this.heardAt) throw new Refused('silence', 'no refs came')
    throw new Refused('unreachable', 'WhatsApp was not reached in time')
  }

  /** @param {import('./ending.js').Ending} ending */
  #refusedBy(ending) {
    const unreached = ending.origin === 'http' || !this.heardAt
    return new Refused(unreached ? 'unreachable' : 'closed', ending.detail, this.#closed(ending))
  }

  // The end -----------------------------------------------------------------------------

  /** Makes Baileys say why it ended, through connection.update. @param {Error} error */
  #end(error) {
    this.sock.end(error).catch(() => {})
  }

  /** @param {import('./ending.js').Ending} ending */
  #closed(ending) {
    return {
      closed: {
        ...ending,
        reached: this.heardAt !== undefined,
        was_open: this.#opened,
        linked: this.#linked,
      },
    }
  }

  /** @param {unknown} error */
  async #onClose(error) {
    if (this.#retired) return
    const ending = describe(error)
    this.#retire(ending)
    await this.#drain()
    this.emit('closed', this.#closed(ending))
    this.#quiet = true
    this.onGone()
  }

  /** @param {import('./ending.js').Ending} ending */
  #retire(ending) {
    this.#retired = true
    this.stored?.retire()
    this.#ended.resolve(ending)
  }

  async #drain() {
    const timer = new AbortController()
    const late = sleep(DRAIN_MS, undefined, { signal: timer.signal }).catch(() => {})
    await Promise.race([this.stored?.drain(), late])
    timer.abort()
  }

  /**
   * Ends the socket for good; nothing of it is heard or written afterwards.
   *
   * The order matters: while the socket can still send, what arrives is still stored, so
   * that nothing is acknowledged to WhatsApp and then dropped.
   *
   * @param {boolean} isUnlinking whether to take the device out of the phone's list first
   * @returns {Promise<void>} when the connection is gone and the last writes are in or refused
   */
  close(isUnlinking) {
    this.#closing ??= this.#close(isUnlinking)
    return this.#closing
  }

  /** @param {boolean} isUnlinking */
  async #close(isUnlinking) {
    this.#quiet = true
    if (isUnlinking && this.#opened) {
      await unlink(this.sock, UNLINK_MS).catch(error => {
        log.warning(`${this.label}: not unlinked: ${log.mask(error)}`)
      })
    }
    this.sock.end(undefined).catch(() => {})
    this.#retire({ origin: 'none', detail: 'closed by us' })
    this.sock.ev.removeAllListeners('creds.update')
    await this.#gone.promise
    await this.#drain()
    this.onGone()
  }
}
