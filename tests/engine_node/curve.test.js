// @ts-check
import assert from 'node:assert/strict'
import { createPrivateKey, createPublicKey, diffieHellman, randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'
import { test } from 'node:test'

const engine = new URL('../../whatsapp/engine/node/', import.meta.url)
const require = createRequire(new URL('main.js', engine))
const script = { ...require('curve25519-js') }
const libsignal = require('libsignal/src/curve.js')
const before = { ...libsignal }
await import(new URL('curve.js', engine).href)
const { Curve } = await import(new URL('node_modules/@whiskeysockets/baileys/lib/index.js', engine).href)

const RUNS = 20
/** @param {number} length */
const zeros = length => Buffer.alloc(length)

test('Baileys computes with it', async () => {
  const seen = await import(new URL('node_modules/libsignal/src/curve.js', engine).href)
  assert.notEqual(libsignal.generateKeyPair, before.generateKeyPair)
  assert.equal(seen.generateKeyPair, libsignal.generateKeyPair)
  assert.equal(seen.calculateAgreement, libsignal.calculateAgreement)
})

test('signatures of the one are good for the other, and what was changed for neither', () => {
  for (let run = 0; run < RUNS; run++) {
    const { private: secret, public: key } = Curve.generateKeyPair()
    const message = randomBytes(run * 7 + 1)
    const signed = Buffer.from(Curve.sign(secret, message))
    const scripted = Buffer.from(script.sign(secret, message))
    const other = Curve.generateKeyPair().public
    for (const signature of [signed, scripted]) {
      const prefixed = Buffer.concat([Buffer.from([5]), key])
      assert.equal(script.verify(key, message, signature), true)
      assert.equal(libsignal.verifySignature(prefixed, message, signature), true)
      const changed = Buffer.from(signature)
      changed[run] ^= 1
      for (const [k, m, s] of [
        [key, Buffer.concat([message, zeros(1)]), signature],
        [key, message, changed],
        [other, message, signature],
        [key, message, zeros(64)],
        [zeros(32), message, signature],
      ]) {
        assert.equal(script.verify(k, m, s), false)
        assert.equal(libsignal.verifySignature(Buffer.concat([Buffer.from([5]), k]), m, s), false)
      }
    }
  }
})

test('two sides agree on one secret, the same that OpenSSL finds', () => {
  /** @param {string} prefix @param {Buffer} key */
  const der = (prefix, key) => Buffer.concat([Buffer.from(prefix, 'hex'), key])
  for (let run = 0; run < RUNS; run++) {
    const [mine, theirs] = [Curve.generateKeyPair(), Curve.generateKeyPair()]
    const shared = Curve.sharedKey(mine.private, theirs.public)
    assert.ok(Buffer.isBuffer(shared))
    assert.deepEqual(Curve.sharedKey(theirs.private, mine.public), shared)
    const privateKey = createPrivateKey({ key: der('302e020100300506032b656e04220420', mine.private), format: 'der', type: 'pkcs8' })
    const publicKey = createPublicKey({ key: der('302a300506032b656e032100', theirs.public), format: 'der', type: 'spki' })
    assert.deepEqual(diffieHellman({ privateKey, publicKey }), shared)
  }
})

test('key pairs have the shape that is stored', () => {
  const { pubKey, privKey } = libsignal.generateKeyPair()
  assert.ok(Buffer.isBuffer(pubKey) && Buffer.isBuffer(privKey))
  assert.deepEqual([pubKey.length, pubKey[0], privKey.length], [33, 5, 32])
})

test('what is no key is refused as before', () => {
  const { pubKey, privKey } = libsignal.generateKeyPair()
  const low = Buffer.concat([Buffer.from([5]), zeros(32)])
  for (const [key, secret] of [
    [low, privKey],
    [pubKey.subarray(0, 20), privKey],
    [new Uint8Array(pubKey), privKey],
    [pubKey, privKey.subarray(1)],
    [pubKey, new Uint8Array(privKey)],
    [pubKey, undefined],
  ]) {
    assert.throws(() => libsignal.calculateAgreement(key, secret))
    assert.throws(() => before.calculateAgreement(key, secret))
  }
  assert.throws(() => libsignal.calculateSignature(new Uint8Array(privKey), zeros(1)), /private key type/)
  assert.throws(() => libsignal.verifySignature(pubKey, zeros(1), zeros(63)), /Invalid signature/)
})
