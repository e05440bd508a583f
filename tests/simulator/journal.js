// @ts-check
/**
 * What happened, for tests to look at. Times are epoch milliseconds. Lists keep the
 * newest entries only, so that a long demo does not grow without end.
 */
const KEEP = 20_000

/** @typedef {{linkedAt?: number, removedAt?: number, openSockets: number,
 *   peakOpenSockets: number, logins: number, preKeyUploads: number, messages: number}} DeviceEntry */

/** @typedef {{number: number, at: number, event: 'opened' | 'ended' | 'closed', jid: string,
 *   connection: number, cause?: string}} SocketEntry */

export class Journal {
  /** @type {Map<string, DeviceEntry>} */
  #devices = new Map()
  /** @type {SocketEntry[]} kept by a reset: who reads on from a number misses nothing */
  #sockets = []
  #nextSocket = 1
  #open = 0
  #handshakes = 0
  #loginsInFlight = 0

  constructor() {
    this.reset()
  }

  reset() {
    this.total = 0
    this.peak = this.#open
    this.handshakePeak = this.#handshakes
    this.maxConcurrentLogins = this.#loginsInFlight
    this.registrations = 0
    this.unknownLogins = 0
    this.removedLogins = 0
    /** @type {object[]} */
    this.hellos = []
    /** @type {object[]} */
    this.finishes = []
    /** @type {object[]} */
    this.logins = []
    /** @type {object[]} */
    this.scans = []
    /** @type {object[]} */
    this.codes = []
    /** @type {object[]} */
    this.messages = []
    /** @type {object[]} what devices say of messages; "retry": they could not read it */
    this.receipts = []
    for (const entry of this.#devices.values()) {
      // Facts about the present survive; what is counted starts again.
      Object.assign(entry, {
        peakOpenSockets: entry.openSockets, logins: 0, preKeyUploads: 0, messages: 0,
      })
    }
  }

  connected() {
    this.total++
    this.peak = Math.max(this.peak, ++this.#open)
    this.handshakePeak = Math.max(this.handshakePeak, ++this.#handshakes)
  }

  handshakeOver() {
    this.#handshakes--
  }

  disconnected() {
    this.#open--
  }

  loginStarted() {
    this.maxConcurrentLogins = Math.max(this.maxConcurrentLogins, ++this.#loginsInFlight)
  }

  loginOver() {
    this.#loginsInFlight--
  }

  /** @param {'hellos' | 'finishes' | 'logins' | 'scans' | 'codes' | 'messages' | 'receipts'} list @param {object} entry */
  add(list, entry) {
    this[list].push({ at: Date.now(), ...entry })
    if (this[list].length > KEEP) this[list].splice(0, KEEP / 10)
  }

  /** @param {string} jid */
  device(jid) {
    let entry = this.#devices.get(jid)
    if (!entry) {
      entry = { openSockets: 0, peakOpenSockets: 0, logins: 0, preKeyUploads: 0, messages: 0 }
      this.#devices.set(jid, entry)
    }
    return entry
  }

  /** @param {string} jid @param {number} connection */
  deviceOpened(jid, connection) {
    this.#note({ event: 'opened', jid, connection })
    const entry = this.device(jid)
    entry.logins++
    entry.peakOpenSockets = Math.max(entry.peakOpenSockets, ++entry.openSockets)
  }

  /**
   * The device is not online any more, by this connection.
   *
   * @param {string} jid @param {number} connection @param {string} cause
   */
  deviceClosed(jid, connection, cause) {
    this.#note({ event: 'ended', jid, connection, cause })
    this.device(jid).openSockets--
  }

  /**
   * Its TCP connection is gone, too: a client that was told so may be slow to hang up.
   *
   * @param {string} jid @param {number} connection
   */
  socketClosed(jid, connection) {
    this.#note({ event: 'closed', jid, connection })
  }

  /** @param {Omit<SocketEntry, 'number' | 'at'>} entry */
  #note(entry) {
    this.#sockets.push({ number: this.#nextSocket++, at: Date.now(), ...entry })
    if (this.#sockets.length > KEEP) this.#sockets.splice(0, KEEP / 10)
  }

  /**
   * What happened to the sockets of devices, from an entry's number on.
   *
   * @param {number} from
   */
  sockets(from) {
    const oldest = this.#nextSocket - this.#sockets.length
    return { next: this.#nextSocket, sockets: this.#sockets.slice(Math.max(0, from - oldest)) }
  }

  toJSON() {
    return {
      connections: { total: this.total, open: this.#open, peak: this.peak },
      handshakePeak: this.handshakePeak,
      maxConcurrentLogins: this.maxConcurrentLogins,
      registrations: this.registrations,
      unknownLogins: this.unknownLogins,
      removedLogins: this.removedLogins,
      hellos: this.hellos,
      finishes: this.finishes,
      logins: this.logins,
      scans: this.scans,
      codes: this.codes,
      messages: this.messages,
      receipts: this.receipts,
      devices: Object.fromEntries(this.#devices),
      preKeyUploads: Object.fromEntries(
        [...this.#devices].map(([jid, entry]) => [jid, entry.preKeyUploads]),
      ),
    }
  }
}
