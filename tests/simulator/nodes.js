// @ts-check
/** Binary nodes: encode, decode, pick, and the few that are built in several places. */
import { inflateSync } from 'node:zlib'
import { binaryConstants, decodeDecompressedBinaryNode, encodeBinaryNode } from './baileys.js'
import { randomBytes } from './crypto.js'

/** @typedef {import('./baileys.js').BinaryNode} BinaryNode */

export const SERVER = 's.whatsapp.net'

/** @param {BinaryNode} node @returns {Buffer} */
export const encode = node => encodeBinaryNode(/** @type {any} */ (node))

/** The first byte says whether the rest is compressed. @param {Buffer} data @returns {BinaryNode} */
export function decode(data) {
  const body = 2 & data[0] ? inflateSync(data.subarray(1)) : data.subarray(1)
  return decodeDecompressedBinaryNode(body, /** @type {any} */ (binaryConstants))
}

/** @param {BinaryNode | undefined} node @returns {BinaryNode[]} */
export const children = node => (Array.isArray(node?.content) ? node.content : [])

/** @param {BinaryNode | undefined} node @param {string} tag */
export const child = (node, tag) => children(node).find(item => item.tag === tag)

/** The bytes of a child. @param {BinaryNode | undefined} node @param {string} tag */
export function bytes(node, tag) {
  const content = child(node, tag)?.content
  if (typeof content === 'string') return Buffer.from(content)
  // A copy: the original would keep the whole frame in memory.
  return content instanceof Uint8Array ? Buffer.from(content) : undefined
}

export const newId = () => randomBytes(8).toString('hex').toUpperCase()
export const unixSeconds = () => Math.floor(Date.now() / 1000).toString()

/** @param {BinaryNode} iq @param {BinaryNode[]} [content] @returns {BinaryNode} */
export const result = (iq, content) => ({
  tag: 'iq',
  attrs: { from: SERVER, type: 'result', id: iq.attrs.id, t: unixSeconds() },
  content,
})

/** What WhatsApp's error codes are called on the wire. */
const ERROR_TEXTS = {
  400: 'bad-request',
  401: 'not-authorized',
  403: 'forbidden',
  404: 'item-not-found',
  429: 'rate-overlimit',
  500: 'internal-server-error',
  503: 'service-unavailable',
}

/** @param {BinaryNode} iq @param {number} code @returns {BinaryNode} */
export const error = (iq, code) => ({
  tag: 'iq',
  attrs: { from: SERVER, type: 'error', id: iq.attrs.id },
  content: [
    {
      tag: 'error',
      attrs: { code: String(code), text: ERROR_TEXTS[/** @type {400} */ (code)] ?? 'error' },
    },
  ],
})

/** @param {string} type @param {BinaryNode[]} content @returns {BinaryNode} */
export const notification = (type, content) => ({
  tag: 'notification',
  attrs: { from: SERVER, type, id: newId(), t: unixSeconds() },
  content,
})

/**
 * 440 has no code on the wire, only the conflict (Baileys' CODE_MAP, whatsmeow's
 * connectionevents.go); a removed device has both.
 *
 * @param {number} code @param {string} [conflict] @returns {BinaryNode}
 */
export function streamError(code, conflict) {
  const kind = conflict ?? (code === 440 ? 'replaced' : undefined)
  return {
    tag: 'stream:error',
    attrs: code === 440 ? {} : { code: String(code) },
    content: kind ? [{ tag: 'conflict', attrs: { type: kind } }] : undefined,
  }
}

/** @param {string} jid "<user>:<device>@<server>" */
export function parseJid(jid) {
  const found = /^(\d+)(?::(\d+))?@(s\.whatsapp\.net|lid)$/.exec(jid)
  return found && { user: found[1], device: Number(found[2] ?? 0), server: found[3] }
}
