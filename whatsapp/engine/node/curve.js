// @ts-check
/**
 * Curve25519 as Baileys' own WebAssembly computes it, in place of JavaScript. Import this
 * before Baileys.
 *
 * libsignal signs and verifies in plain JavaScript, 14 ms each time, and every connection
 * verifies two signatures of the server's certificate before it may log in. The same
 * arithmetic lies compiled in whatsapp-rust-bridge, which Baileys loads anyway for its hashes:
 * 0.2 ms. libsignal's own checks of what it is given stay where they are.
 */
import { createRequire } from 'node:module'
import {
  calculateAgreement,
  calculateSignature,
  generateKeyPair,
  verifySignature,
} from 'whatsapp-rust-bridge'

const require = createRequire(createRequire(import.meta.url).resolve('@whiskeysockets/baileys'))
const signatures = createRequire(require.resolve('libsignal'))('curve25519-js')
const curve = require('libsignal/src/curve.js')

/** What a public key begins with, on the wire and in the store. */
const PREFIX = Buffer.from([5])
const SECRET_LENGTH = 32

/** @param {unknown} value @param {number} length */
const isKey = (value, length) => Buffer.isBuffer(value) && value.length === length

/** @param {Uint8Array} secret @param {Uint8Array} message */
signatures.sign = (secret, message) => calculateSignature(secret, message)

/** @param {Uint8Array} key without prefix @param {Uint8Array} message @param {Uint8Array} signature */
signatures.verify = (key, message, signature) =>
  verifySignature(Buffer.concat([PREFIX, key]), message, signature)

curve.generateKeyPair = () => {
  const { pubKey, privKey } = generateKeyPair()
  return { pubKey: Buffer.from(pubKey), privKey: Buffer.from(privKey) }
}

const agree = curve.calculateAgreement

/** @param {Uint8Array} key with its prefix @param {Uint8Array} secret */
curve.calculateAgreement = (key, secret) => {
  // Anything unusual is libsignal's to judge.
  if (!isKey(key, 1 + SECRET_LENGTH) || !isKey(secret, SECRET_LENGTH)) return agree(key, secret)
  const shared = Buffer.from(calculateAgreement(key, secret))
  // As OpenSSL does: a key of low order is no key.
  if (shared.every(byte => byte === 0)) throw new Error('Invalid public key')
  return shared
}
