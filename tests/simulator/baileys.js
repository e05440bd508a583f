// @ts-check
/**
 * The building blocks taken from the very Baileys that is under test: protobufs,
 * the binary node codec, Signal. One import point, so that the simulator needs no
 * node_modules of its own and always speaks the dialect of the pinned version.
 *
 * Relative paths on purpose: a package import would be resolved from this folder.
 */
import { createRequire } from 'node:module'

const engine = new URL('../../whatsapp/engine/node/', import.meta.url)
const require = createRequire(new URL('package.json', engine))

export { proto } from '../../whatsapp/engine/node/node_modules/@whiskeysockets/baileys/WAProto/index.js'
export { encodeBinaryNode } from '../../whatsapp/engine/node/node_modules/@whiskeysockets/baileys/lib/WABinary/encode.js'
export { decodeDecompressedBinaryNode } from '../../whatsapp/engine/node/node_modules/@whiskeysockets/baileys/lib/WABinary/decode.js'
export * as binaryConstants from '../../whatsapp/engine/node/node_modules/@whiskeysockets/baileys/lib/WABinary/constants.js'

/** libsignal has no ES module; `curve` is used for signatures, the rest for messages. */
export const libsignal = require('libsignal')
export const { WebSocketServer, WebSocket } = require('ws')

/**
 * @typedef {{tag: string, attrs: Record<string, string | undefined>,
 *   content?: BinaryNode[] | Buffer | Uint8Array | string}} BinaryNode
 */
