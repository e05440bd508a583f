// @ts-check
/**
 * How a phone vouches for a companion (ADV), and how the companion signs in return. The
 * layers are those that Baileys' `configureSuccessfulPairing` takes apart.
 */
import { proto } from './baileys.js'
import { hmacSha256, sign, verify } from './crypto.js'
import * as nodes from './nodes.js'

/** Prefixes of what the account and the device sign (Baileys' `WA_ADV_*_SIG_PREFIX`). */
const ACCOUNT_PREFIX = Buffer.from([6, 0])
const DEVICE_PREFIX = Buffer.from([6, 1])

/**
 * The account signs the device's details and its key; the adv secret, which only the
 * companion's QR or code has given away, seals it.
 *
 * @param {import('./phone.js').Phone} phone @param {number} id
 * @param {Buffer} identityKey @param {Buffer} advSecret
 */
export function vouch({ identity, rawId }, id, identityKey, advSecret) {
  const details = proto.ADVDeviceIdentity.encode({
    rawId,
    timestamp: Math.floor(Date.now() / 1000),
    keyIndex: id,
  }).finish()
  const signed = proto.ADVSignedDeviceIdentity.encode({
    details,
    accountSignatureKey: identity.public,
    accountSignature: sign(
      identity.private,
      Buffer.concat([ACCOUNT_PREFIX, details, identityKey]),
    ),
  }).finish()
  const vouched = proto.ADVSignedDeviceIdentityHMAC.encode({
    details: signed,
    hmac: hmacSha256(signed, advSecret),
  }).finish()
  return { details, vouched }
}

/**
 * Whether a reply to pair-success holds the device's signature; really checked.
 *
 * @param {import('./phone.js').Phone} phone @param {Uint8Array} details
 * @param {Buffer} identityKey @param {import('./baileys.js').BinaryNode} reply
 */
export function isSigned({ identity }, details, identityKey, reply) {
  const content = nodes.bytes(nodes.child(reply, 'pair-device-sign'), 'device-identity')
  if (!content) return false
  const { deviceSignature } = proto.ADVSignedDeviceIdentity.decode(content)
  const promise = Buffer.concat([DEVICE_PREFIX, details, identityKey, identity.public])
  return deviceSignature ? verify(identityKey, promise, deviceSignature) : false
}

/**
 * @param {string} jid @param {string} lid @param {Uint8Array} identity
 * @returns {import('./baileys.js').BinaryNode}
 */
export const pairSuccess = (jid, lid, identity) => ({
  tag: 'iq',
  attrs: { from: nodes.SERVER, type: 'set', id: nodes.newId(), t: nodes.unixSeconds(), xmlns: 'md' },
  content: [
    {
      tag: 'pair-success',
      attrs: {},
      content: [
        { tag: 'device-identity', attrs: {}, content: Buffer.from(identity) },
        { tag: 'device', attrs: { jid, lid } },
        { tag: 'platform', attrs: { name: 'android' } },
      ],
    },
  ],
})
