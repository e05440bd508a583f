// @ts-check
/**
 * The answers of a server to a linked client. What a client asks, and what it looks for
 * in the reply, is read off Baileys' `lib/Socket`; anything else gets an empty result.
 */
import { bigEndian, generateKeyPair, sign, signalKey } from './crypto.js'
import * as logins from './logins.js'
import * as nodes from './nodes.js'

/** @typedef {import('./baileys.js').BinaryNode} BinaryNode */
/** @typedef {import('./connection.js').Connection} Connection */

/** Of the hundreds of pre-keys that a device uploads, so many are kept to be used. */
const KEPT_PRE_KEYS = 30

/** @param {Connection} connection @param {BinaryNode} iq */
export function answer(connection, iq) {
  const { device } = connection
  const first = nodes.children(iq)[0]?.tag ?? ''
  const { xmlns = '', type = '' } = iq.attrs
  if (xmlns === 'encrypt' && device) return connection.send(encrypt(connection, device, iq, first))
  if (xmlns === 'passive') {
    connection.send(nodes.result(iq))
    if (first === 'active') logins.activated(connection)
    return
  }
  if (xmlns === 'md' && first === 'remove-companion-device') return unlink(connection, iq)
  if (xmlns === 'usync') return connection.send(usync(connection, iq))
  if (xmlns === 'w:profile:picture') return connection.send(nodes.error(iq, 404))
  return connection.send(nodes.result(iq, plain(xmlns, first, type, iq)))
}

/** @param {string} xmlns @param {string} first @param {string} type @param {BinaryNode} iq @returns {BinaryNode[] | undefined} */
function plain(xmlns, first, type, iq) {
  if (xmlns === 'abt') {
    // Off: privacy tokens, which the simulator does not issue.
    const props = ['10518', '9666', '14303'].map(name => ({
      tag: 'prop', attrs: { name, value: 'false' },
    }))
    return [{ tag: 'props', attrs: { hash: 'simulated' }, content: props }]
  }
  if (xmlns === 'privacy' && type === 'get') {
    const all = ['readreceipts', 'profile', 'status', 'online', 'last', 'groupadd', 'calladd']
    const category = all.map(name => ({ tag: 'category', attrs: { name, value: 'all' } }))
    return [{ tag: 'privacy', attrs: {}, content: category }]
  }
  if (xmlns === 'blocklist') return [{ tag: 'list', attrs: {}, content: [] }]
  if (xmlns === 'w:g2') return [{ tag: 'groups', attrs: {}, content: [] }]
  if (xmlns === 'w:m' && first === 'media_conn') {
    const host = { tag: 'host', attrs: { hostname: '127.0.0.1', maxContentLengthBytes: '1048576' } }
    return [{ tag: 'media_conn', attrs: { auth: 'simulated', ttl: '3600' }, content: [host] }]
  }
  if (xmlns === 'w:sync:app:state') {
    // No patches, no snapshot: every collection is up to date.
    const content = nodes.children(nodes.child(iq, 'sync')).map(({ attrs }) => ({
      tag: 'collection', attrs: { name: attrs.name, version: attrs.version },
    }))
    return [{ tag: 'sync', attrs: {}, content }]
  }
  return undefined
}

/**
 * @param {Connection} connection @param {import('./phone.js').Device} device
 * @param {BinaryNode} iq @param {string} first @returns {BinaryNode}
 */
function encrypt(connection, device, iq, first) {
  if (first === 'count') {
    return nodes.result(iq, [{ tag: 'count', attrs: { value: String(device.preKeyCount) } }])
  }
  if (first === 'digest') return nodes.result(iq, [{ tag: 'digest', attrs: {} }])
  if (first === 'key') {
    const content = nodes
      .children(nodes.child(iq, 'key'))
      .map(({ attrs }) => bundle(connection, attrs.jid ?? ''))
    return nodes.result(iq, [{ tag: 'list', attrs: {}, content }])
  }
  if (nodes.child(iq, 'registration')) upload(connection, device, iq)
  const rotated = nodes.child(nodes.child(iq, 'rotate'), 'skey')
  if (rotated) device.signedPreKey = signedPreKey(rotated)
  return nodes.result(iq)
}

/** @param {Connection} connection @param {import('./phone.js').Device} device @param {BinaryNode} iq */
function upload(connection, device, iq) {
  const keys = nodes.children(nodes.child(iq, 'list'))
  device.identityKey = nodes.bytes(iq, 'identity')
  device.registrationId = nodes.bytes(iq, 'registration')?.readUInt32BE()
  device.signedPreKey = signedPreKey(nodes.child(iq, 'skey'))
  device.preKeys = keys.slice(0, KEPT_PRE_KEYS).map(key => ({
    keyId: nodes.bytes(key, 'id')?.readUIntBE(0, 3) ?? 0,
    publicKey: nodes.bytes(key, 'value') ?? Buffer.alloc(0),
  }))
  device.preKeyCount += keys.length
  connection.server.journal.device(device.jid).preKeyUploads++
}

/** @param {BinaryNode | undefined} skey */
const signedPreKey = skey => ({
  keyId: nodes.bytes(skey, 'id')?.readUIntBE(0, 3) ?? 0,
  publicKey: nodes.bytes(skey, 'value') ?? Buffer.alloc(0),
  signature: nodes.bytes(skey, 'signature') ?? Buffer.alloc(0),
})

/**
 * The keys with which a client starts a Signal session with a phone. Nobody decrypts
 * what it then sends, so they are made up on the spot.
 *
 * @param {Connection} connection @param {string} jid @returns {BinaryNode}
 */
function bundle(connection, jid) {
  const { user = '', server } = nodes.parseJid(jid) ?? {}
  const { phones } = connection.server
  const phone = (server === 'lid' ? phones.byLid(user) : undefined) ?? phones.get(user)
  const signed = generateKeyPair()
  const signature = sign(phone.identity.private, signalKey(signed.public))
  /** @param {string} tag @param {Buffer} content */
  const leaf = (tag, content) => ({ tag, attrs: {}, content })
  return {
    tag: 'user',
    attrs: { jid },
    content: [
      leaf('registration', bigEndian(1)),
      leaf('type', Buffer.from([5])),
      leaf('identity', phone.identity.public),
      {
        tag: 'skey',
        attrs: {},
        content: [
          leaf('id', bigEndian(1, 3)), leaf('value', signed.public), leaf('signature', signature),
        ],
      },
      {
        tag: 'key',
        attrs: {},
        content: [leaf('id', bigEndian(1, 3)), leaf('value', generateKeyPair().public)],
      },
    ],
  }
}

/** Who has which devices, which LID, and is on WhatsApp. @param {Connection} connection @param {BinaryNode} iq */
function usync(connection, iq) {
  const { phones } = connection.server
  const query = nodes.child(iq, 'usync')
  const asked = nodes.children(nodes.child(query, 'query')).map(({ tag }) => tag)
  const users = nodes.children(nodes.child(query, 'list')).map(user => {
    const typed = nodes.bytes(user, 'contact')?.toString().replace(/\D/g, '')
    const parsed = nodes.parseJid(user.attrs.jid ?? '')
    const number = typed || parsed?.user || '0'
    const phone = (parsed?.server === 'lid' ? phones.byLid(number) : undefined) ?? phones.get(number)
    /** @type {BinaryNode[]} */
    const content = []
    if (asked.includes('contact')) {
      content.push({ tag: 'contact', attrs: { type: phone.exists ? 'in' : 'out' } })
    }
    if (asked.includes('lid')) content.push({ tag: 'lid', attrs: { val: `${phone.lid}@lid` } })
    if (asked.includes('devices')) {
      const list = [{ tag: 'device', attrs: { id: '0' } }]
      for (const { id } of phone.devices.values()) {
        list.push({ tag: 'device', attrs: { id: String(id), 'key-index': String(id) } })
      }
      content.push({
        tag: 'devices', attrs: {}, content: [{ tag: 'device-list', attrs: {}, content: list }],
      })
    }
    return { tag: 'user', attrs: { jid: user.attrs.jid ?? phone.jid }, content }
  })
  const { context, mode, sid } = query?.attrs ?? {}
  return nodes.result(iq, [
    {
      tag: 'usync',
      attrs: { context, mode, sid, last: 'true', index: '0' },
      content: [{ tag: 'list', attrs: {}, content: users }],
    },
  ])
}

/**
 * A client that unlinks itself (`logout`). It is told yes before it is thrown out; that
 * the stream ends with device_removed is what whatsmeow's handler of it suggests.
 *
 * @param {Connection} connection @param {BinaryNode} iq
 */
function unlink(connection, iq) {
  const jid = nodes.child(iq, 'remove-companion-device')?.attrs.jid ?? ''
  const parsed = nodes.parseJid(jid)
  connection.send(nodes.result(iq))
  if (parsed) connection.server.phones.find(parsed.user)?.remove(parsed.device)
}

/** @param {Connection} connection @param {BinaryNode} node a message or a receipt */
export function acknowledge(connection, node) {
  if (connection.mute) return
  const { id, to, type } = node.attrs
  connection.send({
    tag: 'ack',
    attrs: { class: node.tag, id, from: to, type, t: nodes.unixSeconds() },
  })
  if (!connection.jid) return
  const { journal, receipts } = connection.server
  if (node.tag === 'receipt') {
    journal.add('receipts', { from: connection.jid, to, id, type: type ?? '' })
    receipts.get(id ?? '')?.()
    return
  }
  journal.device(connection.jid).messages++
  journal.add('messages', { from: connection.jid, to, id })
}
