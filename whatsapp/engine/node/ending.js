// @ts-check
/** Why a socket ended, in words that protocol.py turns into a DisconnectReason. */
import { mask } from './log.js'

/** An end that we found out ourselves, where Baileys would go on waiting. */
export class Ended extends Error {
  /** @param {string} origin @param {string} detail @param {number} [status] */
  constructor(origin, detail, status) {
    super(detail)
    this.origin = origin
    this.status = status
  }
}

/**
 * @typedef {{origin: string, status?: number, detail: string}} Ending
 *
 * origin: http (the upgrade was answered with a status), failure (<failure>), stream
 * (<stream:error>), stream_end, transport (TCP or TLS), timeout, refs (the QR refs ran
 * out), pairing (pair-success that does not verify), frame (undecryptable), store (the
 * store says that the session is not ours), held (the store took no writes for too long),
 * none
 */

/** Baileys' own sentences; the numbers with them are partly made up by it. */
const SENTENCES = [
  { pattern: /^QR refs attempts ended/, origin: 'refs' },
  { pattern: /^Connection Failure|^Multi-device beta/, origin: 'failure' },
  { pattern: /^Stream Errored/, origin: 'stream' },
  { pattern: /^Connection Terminated by Server/, origin: 'stream_end' },
  { pattern: /^Connection (Terminated|was lost|Closed)|^WebSocket Error/, origin: 'transport' },
  { pattern: /^Timed Out/, origin: 'timeout' },
  { pattern: /account signature|Missing device-identity/, origin: 'pairing' },
]

/**
 * Errors without a status code exist, and Boom makes 500 out of a missing one.
 *
 * @param {any} error lastDisconnect.error @returns {Ending}
 */
export function describe(error) {
  if (error instanceof Ended) {
    return { origin: error.origin, status: error.status, detail: error.message }
  }
  const message = mask(error?.message ?? '')
  const origin = SENTENCES.find(({ pattern }) => pattern.test(message))?.origin ?? 'none'
  const status = origin === 'pairing' ? undefined : error?.output?.statusCode
  return { origin, status, detail: detailOf(origin, error, message) }
}

/** @param {string} origin @param {any} error @param {string} message */
function detailOf(origin, error, message) {
  const { data } = error ?? {}
  // <conflict type="device_removed"/> or "replaced" within the stream error
  if (origin === 'stream') return mask(data?.attrs?.type ?? data?.tag ?? message)
  if (origin === 'transport' && data?.code) return mask(data.code)
  return message
}
