// @ts-check
/**
 * The primitives of WhatsApp's handshake and pairing. X25519, HKDF and AES come from
 * Node; XEd25519 signatures from libsignal, because Node has none.
 */
import nodeCrypto from 'node:crypto'
import { promisify } from 'node:util'
import { libsignal } from './baileys.js'

const pbkdf2 = promisify(nodeCrypto.pbkdf2)
/** DER prefixes of a raw X25519 key (RFC 8410). */
const PKCS8 = Buffer.from('302e020100300506032b656e04220420', 'hex')
const SPKI = Buffer.from('302a300506032b656e032100', 'hex')
const GCM_TAG = 16

/** @typedef {{private: Buffer, public: Buffer}} KeyPair  32 bytes each */

export const randomBytes = nodeCrypto.randomBytes

/** @returns {KeyPair} */
export function generateKeyPair() {
  const pair = nodeCrypto.generateKeyPairSync('x25519')
  return {
    private: pair.privateKey.export({ format: 'der', type: 'pkcs8' }).subarray(PKCS8.length),
    public: pair.publicKey.export({ format: 'der', type: 'spki' }).subarray(SPKI.length),
  }
}

/** @param {Buffer} privateKey @param {Uint8Array} publicKey */
export function sharedKey(privateKey, publicKey) {
  return nodeCrypto.diffieHellman({
    privateKey: nodeCrypto.createPrivateKey({
      key: Buffer.concat([PKCS8, privateKey]),
      format: 'der',
      type: 'pkcs8',
    }),
    publicKey: nodeCrypto.createPublicKey({
      key: Buffer.concat([SPKI, publicKey]),
      format: 'der',
      type: 'spki',
    }),
  })
}

/** A key as Signal writes it: the type byte 5 in front. @param {Uint8Array} key */
export const signalKey = key => Buffer.concat([Buffer.from([5]), key])

/** @param {Buffer} privateKey @param {Uint8Array} message @returns {Buffer} */
export const sign = (privateKey, message) =>
  libsignal.curve.calculateSignature(privateKey, Buffer.from(message))

/**
 * Unlike Baileys' `Curve.verify`, which throws away libsignal's answer, this one looks.
 *
 * @param {Uint8Array} publicKey @param {Uint8Array} message @param {Uint8Array} signature
 */
export function verify(publicKey, message, signature) {
  try {
    return libsignal.curve.verifySignature(signalKey(publicKey), message, signature) === true
  } catch {
    return false
  }
}

/** @param {Uint8Array} data */
export const sha256 = data => nodeCrypto.createHash('sha256').update(data).digest()

/** @param {Uint8Array} data @param {Uint8Array} key */
export const hmacSha256 = (data, key) =>
  nodeCrypto.createHmac('sha256', key).update(data).digest()

/**
 * @param {Uint8Array} input @param {number} length
 * @param {{salt?: Uint8Array, info?: string}} [options]
 */
export const hkdf = (input, length, { salt = Buffer.alloc(0), info = '' } = {}) =>
  Buffer.from(nodeCrypto.hkdfSync('sha256', input, salt, info, length))

/** @param {Uint8Array} plain @param {Uint8Array} key @param {Uint8Array} iv @param {Uint8Array} aad */
export function encryptGcm(plain, key, iv, aad) {
  const cipher = nodeCrypto.createCipheriv('aes-256-gcm', key, iv)
  cipher.setAAD(aad)
  return Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()])
}

/** @param {Buffer} sealed @param {Uint8Array} key @param {Uint8Array} iv @param {Uint8Array} aad */
export function decryptGcm(sealed, key, iv, aad) {
  const decipher = nodeCrypto.createDecipheriv('aes-256-gcm', key, iv)
  decipher.setAAD(aad)
  decipher.setAuthTag(sealed.subarray(sealed.length - GCM_TAG))
  return Buffer.concat([
    decipher.update(sealed.subarray(0, sealed.length - GCM_TAG)),
    decipher.final(),
  ])
}

/** AES-CTR is its own inverse. @param {Uint8Array} data @param {Uint8Array} key @param {Uint8Array} iv */
export function ctr(data, key, iv) {
  const cipher = nodeCrypto.createCipheriv('aes-256-ctr', key, iv)
  return Buffer.concat([cipher.update(data), cipher.final()])
}

/** The key behind a pairing code: 131,072 rounds, as in `derivePairingCodeKey`. @param {string} code @param {Uint8Array} salt */
export const pairingCodeKey = (code, salt) => pbkdf2(code, salt, 2 << 16, 32, 'sha256')

/** @param {number} value @param {number} [size] */
export function bigEndian(value, size = 4) {
  const bytes = Buffer.alloc(size)
  bytes.writeUIntBE(value, 0, size)
  return bytes
}
