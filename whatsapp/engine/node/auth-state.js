// @ts-check
/**
 * Baileys' AuthenticationState: creds and keys as JSON text on the way in and out.
 *
 * Binary values come in three forms, all of which live in old rows: {"type":"Buffer",
 * "data":[1,2]}, {"type":"Buffer","data":"base64"} and {"0":1,"1":2}, a Uint8Array that
 * went through JSON. Base64 is what we write.
 */
import { BufferJSON, proto } from '@whiskeysockets/baileys'
import { PipeError } from './pipe.js'
import * as log from './log.js'

/** @typedef {import('@whiskeysockets/baileys').AuthenticationCreds} Creds */
/** @typedef {{t: string, i: string, v: unknown}} Row a key; v null deletes it */
/** @typedef {(type: string, ids: string[]) => Promise<string>} Load */
/** @typedef {(creds: string | null, keys: string | null, number: number) => Promise<void>} Save */

const RETRY_MS = 250
const RETRY_MAX_MS = 2_000
/** What cannot be stored for so long, or is so much, ends the socket: WhatsApp sends again
 * what was never acknowledged to it. */
const HELD_MS = 60_000
const HELD_CHARS = 8 << 20

/** @param {unknown} value @returns {value is number} */
const isByte = value => Number.isInteger(value) && Number(value) >= 0 && Number(value) < 256

/**
 * Stricter than Baileys' own reviver, which takes any object whose keys begin with a
 * digit and whose values are numbers for bytes, and does not know the array form.
 *
 * @param {string} _ @param {any} value
 */
function revive(_, value) {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return value
  if (value.type === 'Buffer') {
    if (typeof value.data === 'string') return Buffer.from(value.data, 'base64')
    if (Array.isArray(value.data)) return Buffer.from(value.data)
  }
  const keys = Object.keys(value)
  const isBytes =
    keys.length > 0 && keys.every((key, index) => key === String(index) && isByte(value[key]))
  return isBytes ? Buffer.from(Object.values(value)) : value
}

/** @param {string} text @returns {any} */
export const parse = text => JSON.parse(text, revive)

/** @param {unknown} value @returns {string} */
export const serialise = value => JSON.stringify(value, BufferJSON.replacer)

/**
 * Creds from their text. The object is this socket's own: Baileys changes it in place.
 *
 * @param {string} text @returns {Creds} @throws {TypeError} if they are no creds
 */
export function parseCreds(text) {
  const creds = parse(text)
  for (const part of ['noiseKey', 'signedIdentityKey', 'signedPreKey']) {
    if (!creds?.[part]) throw new TypeError(`creds without ${part}`)
  }
  // Protobuf's toJSON wrote its bytes as bare base64 strings.
  if (creds.account) creds.account = proto.ADVSignedDeviceIdentity.fromObject(creds.account)
  return creds
}

/**
 * Whether WhatsApp has linked this device. `registered` does not tell: it stays false
 * after a QR and becomes true after a wrong code.
 *
 * @param {Creds} creds
 */
export const isLinked = creds => Boolean(creds.account && /:\d+@/.test(creds.me?.id ?? ''))

/** @param {string} type @param {any} value */
const decoded = (type, value) =>
  type === 'app-state-sync-key' ? proto.Message.AppStateSyncKeyData.fromObject(value) : value

/**
 * Serialises at once: Baileys goes on changing what it hands over.
 *
 * @param {import('@whiskeysockets/baileys').SignalDataSet} data
 */
function rowsOf(data) {
  /** @type {{key: string, text: string, deleted: boolean}[]} */
  const rows = []
  for (const [t, values] of Object.entries(data)) {
    for (const [i, value] of Object.entries(values ?? {})) {
      const v = value ?? null
      rows.push({ key: `${t} ${i}`, text: serialise({ t, i, v }), deleted: v === null })
    }
  }
  return rows
}

/** @param {Iterable<string>} rows JSON texts @returns {string | null} */
const arrayOf = rows => {
  const text = [...rows].join(',')
  return text ? `[${text}]` : null
}

/** Keys of a socket that is not linked yet: they live and die with it. */
export class MemoryKeys {
  /** @type {Map<string, string>} */
  #rows = new Map()

  /** @param {string} type @param {string[]} ids */
  async get(type, ids) {
    /** @type {Record<string, any>} */
    const found = {}
    for (const id of ids) {
      const text = this.#rows.get(`${type} ${id}`)
      if (text) found[id] = decoded(type, parse(text).v)
    }
    return found
  }

  /** @param {import('@whiskeysockets/baileys').SignalDataSet} data */
  async set(data) {
    for (const { key, text, deleted } of rowsOf(data)) {
      if (deleted) this.#rows.delete(key)
      else this.#rows.set(key, text)
    }
  }

  /** @returns {string | null} */
  toText() {
    return arrayOf(this.#rows.values())
  }
}

/**
 * Keys and creds of a linked socket: read from and written to the store behind the pipe.
 *
 * Writes form one queue. While a save is on its way, what comes in gathers into the next
 * one, creds and keys together, so that they are stored in one transaction and in order.
 * A save that fails is tried again, with what came in meanwhile, until it is stored or the
 * socket is over; who waits for it goes on waiting. If Baileys repeated it, as it does with
 * a rejection, an older value could come after a newer one. Batches are numbered, so that
 * the store can refuse one that it hears of too late.
 */
export class StoredAuth {
  /** @type {string | undefined} */
  #creds
  /** @type {Map<string, string>} */
  #rows = new Map()
  /** @type {(() => void)[]} */
  #waiting = []
  #busy = false
  #retired = false
  #number = 0
  #retryMs = RETRY_MS
  /** @type {NodeJS.Timeout | undefined} */
  #retry
  /** When the first save in a row failed, ms. @type {number | undefined} */
  #failingSince
  /** @type {(() => void)[]} */
  #drained = []

  /**
   * @param {object} options
   * @param {Load} options.load @param {Save} options.save
   * @param {string} options.known the creds as the store has them
   * @param {string} options.label for the log
   * @param {() => void} options.onRefused the store says that this session is not ours
   * @param {() => void} options.onHeld too much could not be stored for too long
   */
  constructor({ load, save, known, label, onRefused, onHeld }) {
    this.load = load
    this.save = save
    this.known = known
    this.label = label
    this.onRefused = onRefused
    this.onHeld = onHeld
  }

  /**
   * A failed read rejects: {} would mean "no such key" and make Baileys start a new
   * Signal session over a good one. Only a retired socket, which can send no more, gets it.
   *
   * @param {string} type @param {string[]} ids @returns {Promise<any>}
   */
  async get(type, ids) {
    if (this.#retired) return {}
    let text
    try {
      text = await this.load(type, ids)
    } catch (error) {
      if (this.#retired) return {}
      throw error
    }
    const found = parse(text)
    for (const id of Object.keys(found)) {
      if (found[id] === null) delete found[id]
      else found[id] = decoded(type, found[id])
    }
    return found
  }

  /**
   * Resolves when the rows are committed. A retired socket's writes are dropped without
   * a word: Baileys tries a failed one ten times, three seconds apart.
   *
   * @param {import('@whiskeysockets/baileys').SignalDataSet} data @returns {Promise<void>}
   */
  async set(data) {
    if (this.#retired) return
    const rows = rowsOf(data)
    if (!rows.length) return
    for (const { key, text } of rows) this.#rows.set(key, text)
    await new Promise(resolve => {
      this.#waiting.push(() => resolve(undefined))
      this.#kick()
    })
  }

  /** Stores the creds if they are not what the store has. @param {string} text */
  setCreds(text) {
    if (this.#retired || text === this.known) return
    this.known = text
    this.#creds = text
    this.#kick()
  }

  /** From now on nothing new is written; what is queued still goes out, if it can. */
  retire() {
    this.#retired = true
    clearTimeout(this.#retry)
    this.#retry = undefined
  }

  /** When all that was queued is stored, refused or given up. @returns {Promise<void>} */
  drain() {
    if (!this.#busy && this.#creds === undefined && !this.#rows.size) return Promise.resolve()
    return new Promise(resolve => {
      this.#drained.push(resolve)
      this.#kick()
    })
  }

  #kick() {
    if (this.#busy || this.#retry) return
    this.#busy = true
    // What Baileys writes in one go shares one save.
    queueMicrotask(() => void this.#pump())
  }

  async #pump() {
    let ok = true
    while (ok && (this.#creds !== undefined || this.#rows.size)) ok = await this.#saveBatch()
    this.#busy = false
    if (!ok && this.#retired) this.#drop()
    for (const resolve of this.#drained.splice(0)) resolve()
  }

  /** @returns {Promise<boolean>} whether to go on */
  async #saveBatch() {
    const creds = this.#creds
    const rows = this.#rows
    const waiting = this.#waiting.splice(0)
    this.#creds = undefined
    this.#rows = new Map()
    try {
      await this.save(creds ?? null, arrayOf(rows.values()), ++this.#number)
    } catch (error) {
      // What came in meanwhile is newer.
      this.#creds ??= creds
      this.#rows = new Map([...rows, ...this.#rows])
      this.#waiting.unshift(...waiting)
      this.#onFailure(error)
      return false
    }
    this.#retryMs = RETRY_MS
    this.#failingSince = undefined
    for (const resolve of waiting) resolve()
    return true
  }

  /** @param {unknown} error */
  #onFailure(error) {
    const code = error instanceof PipeError ? error.code : 'failed'
    if (code === 'refused' || code === 'retired') {
      this.retire()
      this.#drop()
      this.onRefused()
      return
    }
    if (!this.#failingSince) log.warning(`${this.label}: a save failed (${code}), tried again`)
    this.#failingSince ??= Date.now()
    if (this.#retired) return
    let held = 0
    for (const text of this.#rows.values()) held += text.length
    if (held > HELD_CHARS || Date.now() - this.#failingSince > HELD_MS) {
      this.onHeld()
      return
    }
    this.#retry = setTimeout(() => {
      this.#retry = undefined
      this.#kick()
    }, this.#retryMs)
    this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MAX_MS)
  }

  /** The socket is over: what could not be stored is nobody's any more. */
  #drop() {
    this.#creds = undefined
    this.#rows.clear()
    for (const resolve of this.#waiting.splice(0)) resolve()
  }
}
