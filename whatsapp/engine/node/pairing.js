// @ts-check
/**
 * companion_hello as a query: a code exists only once WhatsApp has acknowledged it.
 *
 * Baileys' own requestPairingCode sends the same stanza without waiting for the answer
 * and marks the creds as belonging to that phone before it has one (baileys.md, B1).
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  aesEncryptCTR,
  getBinaryNodeChild,
  getCompanionPlatformId,
  jidEncode,
  S_WHATSAPP_NET,
} from '@whiskeysockets/baileys'

/** @typedef {import('@whiskeysockets/baileys').BinaryNode} BinaryNode */
/** @typedef {import('@whiskeysockets/baileys').WASocket} WASocket */

const RETRY_AFTER_MS = 300
/** A second hello needs at least this long to be worth sending. */
const RETRY_NEEDS_MS = 1_000

/** WhatsApp's no, its silence, or the end of the socket. */
export class Refused extends Error {
  /**
   * @param {string} kind CodeRefused.Kind in protocol.py
   * @param {string} detail for the log @param {object} [more] fields for Python
   */
  constructor(kind, detail, more) {
    super(detail)
    this.kind = kind
    this.more = more
  }
}

/** What WhatsApp's numbers mean to a caller. @param {number} code @returns {string} */
function kindOf(code) {
  if (code === 400) return 'bad_request'
  if (code === 404) return 'not_found'
  if (code === 429) return 'rate_limited'
  return code >= 500 ? 'server_error' : 'bad_request'
}

/**
 * @typedef {object} Request
 * @property {WASocket} sock @property {string} phone bare digits
 * @property {import('./codes.js').PreparedCode} prepared
 * @property {[string, string, string]} browser
 * @property {number} deadline epoch ms
 * @property {() => void} onAcknowledged called before the next stanza is read
 */

/**
 * Asks for a code, once more after a 5xx, and makes the creds ready for the phone that
 * types it: Baileys' handler of the phone's answer reads `pairingCode` and `me.id`.
 *
 * Nothing is changed before the acknowledgement: an older code of this socket stays good
 * when a newer one is refused, and creds that never were acknowledged name no phone.
 *
 * @param {Request} request @returns {Promise<string>} the code @throws {Refused}
 */
export async function requestCode(request) {
  const left = () => request.deadline - Date.now()
  let answer = await hello(request, left())
  if (answer.code >= 500 && left() > RETRY_NEEDS_MS + RETRY_AFTER_MS) {
    await sleep(RETRY_AFTER_MS)
    answer = await hello(request, left())
  }
  if (answer.code) throw new Refused(kindOf(answer.code), `${answer.code} ${answer.text}`, answer)
  return request.prepared.code
}

/**
 * Not with sock.query, which throws away an error's attributes and has two timers that
 * race for what a timeout looks like.
 *
 * @param {Request} request @param {number} timeoutMs
 * @returns {Promise<{code: number, text: string, backoff?: number}>} code 0: acknowledged
 */
async function hello(request, timeoutMs) {
  const { sock } = request
  const id = sock.generateMessageTag()
  // What follows in the same chunk of TCP is read before any promise is resolved.
  const accept = (/** @type {BinaryNode} */ answer) => {
    if (isAcknowledged(answer)) acknowledge(request)
  }
  sock.ws.on(`TAG:${id}`, accept)
  try {
    const answered = sock.waitForMessage(id, Math.max(timeoutMs, 1))
    const [answer] = await Promise.all([answered, sock.sendNode(helloNode(request, id))])
    if (!answer) throw new Refused('silence', 'companion_hello was not answered')
    return verdict(answer)
  } catch (error) {
    if (error instanceof Refused) throw error
    throw new Refused('closed', error instanceof Error ? error.message : 'connection closed')
  } finally {
    sock.ws.off(`TAG:${id}`, accept)
  }
}

/** @param {BinaryNode} answer */
const isAcknowledged = answer =>
  Boolean(
    getBinaryNodeChild(
      getBinaryNodeChild(answer, 'link_code_companion_reg'),
      'link_code_pairing_ref',
    ),
  )

/** @param {Request} request */
function acknowledge({ sock, phone, prepared, onAcknowledged }) {
  const { creds } = sock.authState
  creds.pairingCode = prepared.code
  creds.me = { id: jidEncode(phone, 's.whatsapp.net'), name: '~' }
  onAcknowledged()
}

/** @param {BinaryNode} answer */
function verdict(answer) {
  const refusal = getBinaryNodeChild(answer, 'error')
  if (refusal || answer.attrs.type === 'error') {
    const { code, text, backoff } = refusal?.attrs ?? {}
    return { code: Number(code) || 500, text: text ?? '', backoff: Number(backoff) || undefined }
  }
  if (!isAcknowledged(answer)) {
    throw new Refused('server_error', 'companion_hello was answered without a ref')
  }
  return { code: 0, text: '' }
}

/**
 * The stanza of Baileys' requestPairingCode and whatsmeow's PairPhone. The nonce is a
 * zero byte, as in whatsmeow and WhatsApp Web; Baileys sends the digit.
 *
 * @param {Request} request @param {string} id @returns {BinaryNode}
 */
function helloNode({ sock, phone, prepared: { salt, key }, browser }, id) {
  const { creds } = sock.authState
  const iv = randomBytes(16)
  const sealed = aesEncryptCTR(creds.pairingEphemeralKeyPair.public, key, iv)
  /** @param {string} tag @param {Uint8Array | string} content */
  const field = (tag, content) => ({ tag, attrs: {}, content })
  return {
    tag: 'iq',
    attrs: { to: S_WHATSAPP_NET, type: 'set', id, xmlns: 'md' },
    content: [
      {
        tag: 'link_code_companion_reg',
        attrs: {
          jid: jidEncode(phone, 's.whatsapp.net'),
          stage: 'companion_hello',
          should_show_push_notification: 'true',
        },
        content: [
          field(
            'link_code_pairing_wrapped_companion_ephemeral_pub',
            Buffer.concat([salt, iv, sealed]),
          ),
          field('companion_server_auth_key_pub', creds.noiseKey.public),
          field('companion_platform_id', getCompanionPlatformId(browser)),
          // WhatsApp checks it: only well-known browsers and systems get a code.
          field('companion_platform_display', `${browser[1]} (${browser[0]})`),
          field('link_code_pairing_nonce', Buffer.from([0])),
        ],
      },
    ],
  }
}

/**
 * Takes this device out of the phone's list, and waits for WhatsApp's word.
 *
 * Baileys' logout ends the socket without waiting, so that the device may stay listed.
 *
 * @param {WASocket} sock @param {number} timeoutMs
 */
export async function unlink(sock, timeoutMs) {
  const jid = sock.authState.creds.me?.id
  if (!jid) return
  await sock.query(
    {
      tag: 'iq',
      attrs: { to: S_WHATSAPP_NET, type: 'set', xmlns: 'md' },
      content: [{ tag: 'remove-companion-device', attrs: { jid, reason: 'user_initiated' } }],
    },
    timeoutMs,
  )
}
