// @ts-check
/**
 * Pairing codes are made ahead: the key behind one takes 131,072 rounds of PBKDF2, 20 to 35 ms
 * of a core, and needs nothing of the salon. When many salons ask at the same instant, their
 * codes are there.
 */
import { randomBytes } from 'node:crypto'
import { bytesToCrockford, derivePairingCodeKey } from '@whiskeysockets/baileys'

/** Nothing is made ahead until so long after somebody needed the cores for more. */
const QUIET_MS = 250
/** Derivations at a time; more would only take the cores from the sockets. */
const PARALLEL = 2
/** So many are made as fast as one can; the others take a quarter of a core. */
const FEW = 8
const GAP_MS = 10
const REST = 3

/** @typedef {{code: string, salt: Buffer, key: Buffer}} PreparedCode */

export class CodePool {
  /** @type {PreparedCode[]} */
  #ready = []
  /** @type {{resolve: (code: PreparedCode) => void, reject: (error: Error) => void}[]} */
  #waiting = []
  #deriving = 0
  /** @type {NodeJS.Timeout | undefined} */
  #next

  /** @param {number} size */
  constructor(size) {
    this.size = size
    this.postpone()
  }

  get ready() {
    return this.#ready.length
  }

  /** A code and the key behind it; nobody else gets it. @returns {Promise<PreparedCode>} */
  take() {
    this.postpone()
    const ready = this.#ready.pop()
    if (ready) return Promise.resolve(ready)
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
      this.#serveWaiting()
    })
  }

  /** Something else needs the cores now. */
  postpone() {
    this.#refillIn(QUIET_MS)
  }

  #serveWaiting() {
    while (this.#deriving < Math.min(PARALLEL, this.#waiting.length)) void this.#derive()
  }

  /** @param {number} delayMs */
  #refillIn(delayMs) {
    clearTimeout(this.#next)
    if (this.#ready.length >= this.size) return
    this.#next = setTimeout(() => {
      if (!this.#deriving) void this.#derive()
    }, delayMs)
  }

  async #derive() {
    const began = performance.now()
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
      const took = performance.now() - began
      if (this.#waiting.length) this.postpone()
      else this.#refillIn(this.#ready.length < FEW ? GAP_MS : REST * took)
    }
  }
}
