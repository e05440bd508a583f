// @ts-check
/**
 * Faults on demand. A fault waits until its moment comes up (a hello, a login, ...) for
 * a connection in its scope, and is used up after `times` uses.
 */

/**
 * @typedef {{kind: string, phone?: string, jid?: string, times?: number, ms?: number,
 *   answer?: string | number, below?: number[], delayMs?: number, status?: number, reason?: number, on?: string,
 *   keepAlive?: boolean, unverified?: boolean, [other: string]: unknown}} Fault
 * @typedef {{phone?: string, jid?: string}} Scope
 */

/** Every kind, and what it does; GET /faults shows it and the demo page lists it. */
export const KINDS = {
  refuse: 'connections are refused: the port is closed',
  http: 'the upgrade is answered with HTTP {status}, Connection: close (or keepAlive: true)',
  'keepalive-503': 'the upgrade is answered with HTTP 503 on a connection that stays open',
  blackhole: 'TCP connects, the upgrade is never answered',
  'slow-handshake': 'the server hello comes {ms} late',
  'no-server-hello': 'the WebSocket opens, the noise handshake is never answered',
  'no-pair-device': 'a registering client never gets QR refs',
  failure: '<failure reason={reason}> instead of an answer; {on}: registration, login, any',
  outdated: 'failure 405 for a client that claims a web version below {below}, such as [2, 3000, 7]',
  'drop-after': 'TCP is cut {ms} after the WebSocket opened',
  delay: 'every stanza is sent {ms} late',
  hello: 'companion_hello is answered {answer}: ok, 400, 404, 429, 500, 503, silence, drop, '
    + 'stream-503, passkey, companion_reg_refresh, refresh_code; {delayMs}',
  'drop-after-hello-ack': 'TCP is cut {ms} after companion_hello was acknowledged',
  finish: 'companion_finish is answered {answer}: error, silence, no-pair-success',
  'no-515': 'pair-success, but the connection is left open',
  'late-515': 'pair-success, and 515 {ms} later',
  'drop-after-pair-success': 'TCP is cut instead of 515 (unverified: true: before the reply)',
  login: 'a login is answered {answer}: silence, failure ({reason})',
  'slow-login': 'success comes {ms} late',
  'no-open': 'success, but no query after it is answered',
}

export class Faults {
  /** @type {Map<string, Fault & {used: number}>} */
  #faults = new Map()
  #next = 1

  /** @param {(kind: string) => void} [onChange] told when a fault comes or goes */
  constructor(onChange = () => {}) {
    this.onChange = onChange
  }

  /** @param {Fault} fault @returns {string} its id */
  add(fault) {
    if (!Object.hasOwn(KINDS, fault.kind)) throw new Error(`unknown kind of fault: ${fault.kind}`)
    const id = String(this.#next++)
    this.#faults.set(id, { ...fault, used: 0 })
    this.onChange(fault.kind)
    return id
  }

  /** @param {string} id */
  remove(id) {
    const fault = this.#faults.get(id)
    if (!fault) return false
    this.#faults.delete(id)
    this.onChange(fault.kind)
    return true
  }

  clear() {
    for (const id of [...this.#faults.keys()]) this.remove(id)
  }

  /** @param {string} kind */
  has(kind) {
    for (const fault of this.#faults.values()) if (fault.kind === kind) return true
    return false
  }

  /**
   * The oldest fault of this kind in scope; counts as one use of it.
   *
   * @param {string} kind @param {Scope} [scope] @param {(fault: Fault) => boolean} [suits]
   */
  use(kind, scope = {}, suits = () => true) {
    for (const [id, fault] of this.#faults) {
      if (fault.kind !== kind || !suits(fault)) continue
      if (fault.phone && fault.phone !== scope.phone) continue
      if (fault.jid && fault.jid !== scope.jid) continue
      fault.used++
      if (fault.times && fault.used >= fault.times) this.remove(id)
      return fault
    }
    return undefined
  }

  toJSON() {
    return [...this.#faults].map(([id, fault]) => ({ id, ...fault }))
  }
}
