// @ts-check
/** The server's part in linking: QR refs, and carrying a pairing code's stanzas. */
import { proto } from './baileys.js'
import { randomBytes } from './crypto.js'
import * as nodes from './nodes.js'
import { passkeyRequest } from './phone.js'

/** @typedef {import('./baileys.js').BinaryNode} BinaryNode */
/** @typedef {import('./connection.js').Connection} Connection */

/** Baileys shows the first for 60 s, each of the others for 20 s, then gives up. */
const REFS = 6

/**
 * WhatsApp checks what a client calls itself when it asks for a code, and answers 400 to
 * a made-up name (whatsmeow's PairPhone; measured in WhiskeySockets/Baileys#2769). The
 * exact list is not public: this is the one of well-known browsers and systems.
 */
const DISPLAY =
  /^(Chrome|Edge|Firefox|IE|Opera|Safari|Desktop|Electron|UWP) \((Windows|Mac OS|macOS|Linux|Ubuntu|Debian|Fedora|Android|iOS|Chrome OS)\)$/

/** @param {Connection} connection @param {any} data devicePairingData of the payload */
export function register(connection, data) {
  const props = proto.DeviceProps.decode(data.deviceProps)
  connection.companion = {
    identityKey: Buffer.from(data.eIdent),
    registrationId: Buffer.from(data.eRegid).readUInt32BE(),
    platform: `${proto.DeviceProps.PlatformType[props.platformType ?? 0]} (${props.os})`,
    signedPreKey: {
      keyId: Buffer.from(data.eSkeyId).readUIntBE(0, 3),
      publicKey: Buffer.from(data.eSkeyVal),
      signature: Buffer.from(data.eSkeySig),
    },
  }
  const { faults, refs } = connection.server
  if (faults.use('no-pair-device')) return
  for (let index = 0; index < REFS; index++) {
    const ref = `2@${randomBytes(24).toString('base64url')}`
    connection.refs.push(ref)
    refs.set(ref, connection)
  }
  connection.send(pairDevice(connection.refs))
}

/** @param {string[]} refs @returns {BinaryNode} */
export const pairDevice = refs => ({
  tag: 'iq',
  attrs: { from: nodes.SERVER, type: 'set', id: nodes.newId(), xmlns: 'md' },
  content: [
    {
      tag: 'pair-device',
      attrs: {},
      content: refs.map(ref => ({ tag: 'ref', attrs: {}, content: Buffer.from(ref) })),
    },
  ],
})

/** A code and a QR die with their socket. @param {Connection} connection */
export function forget(connection) {
  for (const ref of connection.refs) connection.server.refs.delete(ref)
  connection.refs = []
  for (const phone of connection.codesFor) {
    if (phone.hello?.connection === connection) phone.hello = undefined
  }
}

/** @param {Connection} connection @param {BinaryNode} iq */
export function linkCode(connection, iq) {
  const reg = nodes.child(iq, 'link_code_companion_reg')
  const number = nodes.parseJid(reg?.attrs.jid ?? '')?.user
  if (connection.stage !== 'registration' || !reg || !number) {
    return connection.send(nodes.error(iq, 400))
  }
  if (reg.attrs.stage === 'companion_finish') return finish(connection, iq, number)
  // From here on faults and control calls by phone reach this connection.
  connection.phone = number
  const fault = connection.server.faults.use('hello', { phone: number })
  const answer = String(fault?.answer ?? 'ok')
  const reply = () => hello(connection, iq, reg, number, answer)
  if (fault?.delayMs) setTimeout(reply, fault.delayMs)
  else reply()
}

/**
 * The reply that Baileys never looks at: result with a ref, or an error.
 *
 * @param {Connection} connection @param {BinaryNode} iq @param {BinaryNode} reg
 * @param {string} number @param {string} answer
 */
function hello(connection, iq, reg, number, answer) {
  const { faults, journal, phones } = connection.server
  const phone = phones.get(number)
  const wrapped = nodes.bytes(reg, 'link_code_pairing_wrapped_companion_ephemeral_pub')
  const display = nodes.bytes(reg, 'companion_platform_display')?.toString() ?? ''
  const refusal = /^\d+$/.test(answer)
    ? Number(answer)
    : wrapped?.length !== 80 || !DISPLAY.test(display)
      ? 400
      : phone.exists
        ? undefined
        : 404
  journal.add('hellos', {
    phone: number, answer: refusal ?? answer, connection: connection.id, display,
  })
  if (refusal) return connection.send(nodes.error(iq, refusal))
  if (answer === 'silence') return
  if (answer === 'drop') return connection.drop()
  if (answer === 'stream-503') return connection.end(nodes.streamError(503))

  const ref = `2@${randomBytes(24).toString('base64url')}`
  connection.send(
    nodes.result(iq, [
      {
        tag: 'link_code_companion_reg',
        attrs: { stage: 'companion_hello' },
        content: [{ tag: 'link_code_pairing_ref', attrs: {}, content: Buffer.from(ref) }],
      },
    ]),
  )
  if (answer === 'passkey') return connection.send(passkeyRequest())
  if (answer === 'companion_reg_refresh') return retire(connection)
  connection.codesFor.add(phone)
  phone.hello = { connection, ref, wrapped: /** @type {Buffer} */ (wrapped) }
  if (answer === 'refresh_code') connection.send(refreshCode(ref))
  const cut = faults.use('drop-after-hello-ack', { phone: number })
  if (cut) setTimeout(() => connection.drop(), cut.ms ?? 0)
}

/**
 * WhatsApp retires what an unlinked companion advertises. The stanza is the one that
 * WhatsApp Web's parser takes (WhiskeySockets/Baileys#2737 and #2765): a client must
 * make a new adv secret and draw its QR again. Baileys rc14 acknowledges and ignores it,
 * so that neither its QR nor its code link any more.
 *
 * @param {Connection} connection
 */
function retire(connection) {
  connection.retired = true
  connection.send(
    nodes.notification('companion_reg_refresh', [{ tag: 'companion_reg_refresh', attrs: {} }]),
  )
}

/**
 * WhatsApp's wish that a new code be shown. The stage is known from other clients; rc14
 * takes every link_code_companion_reg for a primary_hello and logs "Invalid buffer".
 *
 * @param {string} ref @returns {BinaryNode}
 */
const refreshCode = ref =>
  nodes.notification('link_code_companion_reg', [
    {
      tag: 'link_code_companion_reg',
      attrs: { stage: 'refresh_code', force_manual_refresh: 'true' },
      content: [{ tag: 'link_code_pairing_ref', attrs: {}, content: Buffer.from(ref) }],
    },
  ])

/**
 * The server cannot tell a right code from a wrong one: it says yes and passes the
 * bundle on to the phone.
 *
 * @param {Connection} connection @param {BinaryNode} iq @param {string} number
 */
function finish(connection, iq, number) {
  const { faults, journal } = connection.server
  const reg = nodes.child(iq, 'link_code_companion_reg')
  const answer = String(faults.use('finish', { phone: number })?.answer ?? 'ok')
  journal.add('finishes', { phone: number, answer, connection: connection.id })
  if (answer === 'error') connection.send(nodes.error(iq, 400))
  else if (answer !== 'silence') {
    connection.send(
      nodes.result(iq, [{ tag: 'link_code_companion_reg', attrs: { stage: 'companion_finish' } }]),
    )
  }
  if (answer === 'ok' && reg) connection.onFinish?.(reg)
  else connection.onFinish?.(new Error(`companion_finish: ${answer}`))
}
