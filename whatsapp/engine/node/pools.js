// @ts-check
/**
 * What costs time and does not depend on the salon is made ahead: a code's key takes
 * 131,072 rounds of PBKDF2 (20 to 35 ms of a core), fresh creds five key pairs.
 */
import { randomBytes } from 'node:crypto'
import { bytesToCrockford, derivePairingCodeKey, initAuthCreds } from '@whiskeysockets/baileys'

/** Nothing is made ahead until this long after the last use. */
const IDLE_MS = 250
/** Derivations at a time; more would only take the cores from the sockets. */
const PARALLEL = 2

/** @typedef {{code: string, salt: Buffer, key: Buffer}} PreparedCode */

export class CodePool {
  /** @type {PreparedCode[]} */
  #ready = []
  /** @type {{resolve: (code: PreparedCode) => void, reject: (error: Error) => void}[]} */
  #waiting = []
  #deriving = 0
  /** @type {NodeJS.Timeout | undefined} */
  #idle

  /** @param {number} size */
  constructor(size) {
    this.size = size
    this.#refillIn(IDLE_MS)
  }

  get ready() {
    return this.#ready.length
  }

  /** A code and the key behind it; nobody else gets it. @returns {Promise<PreparedCode>} */
  take() {
    this.#refillIn(IDLE_MS)
    const ready = this.#ready.shift()
    if (ready) return Promise.resolve(ready)
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
      this.#serveWaiting()
    })
  }

  #serveWaiting() {
    while (this.#deriving < Math.min(PARALLEL, this.#waiting.length)) void this.#derive()
  }

  /** @param {number} delayMs */
  #refillIn(delayMs) {
    clearTimeout(this.#idle)
    this.#idle = setTimeout(() => {
      if (this.#ready.length < this.size && !this.#deriving) void this.#derive()
    }, delayMs)
  }

  async #derive() {
    this.#deriving++
    try {
      const code = bytesToCrockford(randomBytes(5))
      const salt = randomBytes(32)
      const key = await derivePairingCodeKey(code, salt)
      const waiting = this.#waiting.shift()
      if (waiting) waiting.resolve({ code, salt, key })
      else this.#ready.push({ code, salt, key })
    } catch (error) {
      this.#waiting.shift()?.reject(/** @type {Error} */ (error))
    } finally {
      this.#deriving--
      this.#serveWaiting()
      if (!this.#waiting.length) this.#refillIn(IDLE_MS / 10)
    }
  }
}

export class CredsPool {
  /** @type {import('@whiskeysockets/baileys').AuthenticationCreds[]} */
  #ready = []
  /** @type {NodeJS.Timeout | undefined} */
  #idle

  /** @param {number} size */
  constructor(size) {
    this.size = size
    this.#refillIn(IDLE_MS)
  }

  /** Fresh creds, of this one caller. */
  take() {
    this.#refillIn(IDLE_MS)
    return this.#ready.shift() ?? initAuthCreds()
  }

  /** @param {number} delayMs */
  #refillIn(delayMs) {
    clearTimeout(this.#idle)
    this.#idle = setTimeout(() => {
      if (this.#ready.length >= this.size) return
      this.#ready.push(initAuthCreds())
      this.#refillIn(IDLE_MS / 10)
    }, delayMs)
  }
}
