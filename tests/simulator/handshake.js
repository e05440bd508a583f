// @ts-check
/**
 * The server's half of Noise_XX_25519_AESGCM_SHA256 and the frames that follow it.
 *
 * The client's half is Baileys' `lib/Utils/noise-handler.js`; this is its mirror:
 * 1. the client sends "WA" 6 3 (behind "ED" and routing info if it has some) and its
 *    ephemeral key;
 * 2. we answer with ours, our static key and a certificate chain, both encrypted;
 * 3. the client sends its static (noise) key and the ClientPayload, both encrypted.
 * Each frame has a length of three bytes in front.
 */
import { proto } from './baileys.js'
import {
  decryptGcm,
  encryptGcm,
  generateKeyPair,
  hkdf,
  randomBytes,
  sha256,
  sharedKey,
  sign,
} from './crypto.js'

const NOISE_MODE = Buffer.from('Noise_XX_25519_AESGCM_SHA256\0\0\0\0')
const WA_HEADER = Buffer.from([87, 65, 6, 3])
const EMPTY = Buffer.alloc(0)
const MAX_FRAME = 1 << 24

const serverKey = generateKeyPair()
const certificates = makeCertificates()

/**
 * A leaf for our static key, signed by an intermediate of our own. Its own signature
 * would have to be WhatsApp's: it is random bytes, and Baileys accepts it because its
 * `Curve.verify` ignores the verdict and only refuses malformed input. What Baileys
 * does check is the shape and the issuer's serial, 0.
 */
function makeCertificates() {
  const { Details } = proto.CertChain.NoiseCertificate
  const intermediate = generateKeyPair()
  const period = { notBefore: 1700000000, notAfter: 4000000000 }
  const leaf = Details.encode({
    serial: 2, issuerSerial: 1, key: serverKey.public, ...period,
  }).finish()
  const issuer = Details.encode({
    serial: 1, issuerSerial: 0, key: intermediate.public, ...period,
  }).finish()
  return proto.CertChain.encode({
    leaf: { details: leaf, signature: sign(intermediate.private, leaf) },
    intermediate: { details: issuer, signature: randomBytes(64) },
  }).finish()
}

/** The IV of message n: eight zero bytes and n. @param {number} counter */
function iv(counter) {
  const bytes = Buffer.alloc(12)
  bytes.writeUInt32BE(counter, 8)
  return bytes
}

/** @param {Uint8Array} data */
export function frame(data) {
  const framed = Buffer.allocUnsafe(data.length + 3)
  framed.writeUIntBE(data.length, 0, 3)
  framed.set(data, 3)
  return framed
}

export class Noise {
  /** @type {'hello' | 'finish' | 'transport'} */
  stage = 'hello'
  #pending = EMPTY
  #introRead = false
  #hash = NOISE_MODE
  #salt = NOISE_MODE
  /** @type {Buffer} */
  #key = NOISE_MODE
  #counter = 0
  /** @type {import('./crypto.js').KeyPair | undefined} */
  #ephemeral
  /** @type {Buffer} */
  #sendKey = EMPTY
  /** @type {Buffer} */
  #receiveKey = EMPTY
  #sent = 0
  #received = 0

  /**
   * Splits what came in into whole frames; the rest waits for the next call.
   *
   * @param {Buffer} data @returns {Buffer[]}
   */
  frames(data) {
    this.#pending = this.#pending.length ? Buffer.concat([this.#pending, data]) : data
    if (!this.#introRead && !this.#readIntro()) return []
    const frames = []
    while (this.#pending.length >= 3) {
      const end = 3 + this.#pending.readUIntBE(0, 3)
      if (end > MAX_FRAME) throw new Error('frame too large')
      if (this.#pending.length < end) break
      frames.push(this.#pending.subarray(3, end))
      this.#pending = this.#pending.subarray(end)
    }
    // A view would keep the whole chunk alive for as long as the client is idle.
    this.#pending = this.#pending.length ? Buffer.from(this.#pending) : EMPTY
    return frames
  }

  #readIntro() {
    const data = this.#pending
    let start = 0
    if (data.length < 4) return false
    if (data.toString('latin1', 0, 2) === 'ED') {
      if (data.length < 7) return false
      start = 7 + data.readUIntBE(4, 3)
    }
    if (data.length < start + 4) return false
    if (!data.subarray(start, start + 4).equals(WA_HEADER)) throw new Error('not a WhatsApp client')
    this.#pending = data.subarray(start + 4)
    this.#introRead = true
    this.#authenticate(WA_HEADER)
    return true
  }

  /** Step 2. @param {Buffer} clientHello @returns {Buffer} the frame to send */
  answer(clientHello) {
    const { clientHello: hello } = proto.HandshakeMessage.decode(clientHello)
    if (hello?.ephemeral?.length !== 32) throw new Error('client hello without a key')
    this.#ephemeral = generateKeyPair()
    this.#authenticate(hello.ephemeral)
    this.#authenticate(this.#ephemeral.public)
    this.#mix(sharedKey(this.#ephemeral.private, hello.ephemeral))
    const encryptedStatic = this.#seal(serverKey.public)
    this.#mix(sharedKey(serverKey.private, hello.ephemeral))
    const payload = this.#seal(certificates)
    this.stage = 'finish'
    return frame(
      proto.HandshakeMessage.encode({
        serverHello: { ephemeral: this.#ephemeral.public, static: encryptedStatic, payload },
      }).finish(),
    )
  }

  /**
   * Step 3. From here on everything is encrypted with the two transport keys.
   *
   * @param {Buffer} clientFinish
   * @returns {{noiseKey: Buffer, payload: proto.ClientPayload}}
   */
  finish(clientFinish) {
    const { clientFinish: finish } = proto.HandshakeMessage.decode(clientFinish)
    if (!this.#ephemeral || !finish?.static || !finish.payload) throw new Error('bad client finish')
    const noiseKey = this.#open(Buffer.from(finish.static))
    this.#mix(sharedKey(this.#ephemeral.private, noiseKey))
    const payload = proto.ClientPayload.decode(this.#open(Buffer.from(finish.payload)))
    const keys = hkdf(EMPTY, 64, { salt: this.#salt })
    // The client writes with the first half.
    this.#receiveKey = keys.subarray(0, 32)
    this.#sendKey = keys.subarray(32)
    this.#ephemeral = undefined
    this.stage = 'transport'
    return { noiseKey: Buffer.from(noiseKey), payload }
  }

  /** @param {Uint8Array} plain @returns {Buffer} a whole frame */
  encrypt(plain) {
    return frame(encryptGcm(plain, this.#sendKey, iv(this.#sent++), EMPTY))
  }

  /** @param {Buffer} sealed */
  decrypt(sealed) {
    return decryptGcm(sealed, this.#receiveKey, iv(this.#received++), EMPTY)
  }

  /** @param {Uint8Array} data */
  #authenticate(data) {
    this.#hash = sha256(Buffer.concat([this.#hash, data]))
  }

  /** @param {Buffer} secret */
  #mix(secret) {
    const keys = hkdf(secret, 64, { salt: this.#salt })
    this.#salt = keys.subarray(0, 32)
    this.#key = keys.subarray(32)
    this.#counter = 0
  }

  /** @param {Uint8Array} plain */
  #seal(plain) {
    const sealed = encryptGcm(plain, this.#key, iv(this.#counter++), this.#hash)
    this.#authenticate(sealed)
    return sealed
  }

  /** @param {Buffer} sealed */
  #open(sealed) {
    const plain = decryptGcm(sealed, this.#key, iv(this.#counter++), this.#hash)
    this.#authenticate(sealed)
    return plain
  }
}
