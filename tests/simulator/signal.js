// @ts-check
/**
 * Messages that a linked client can decrypt: Signal sessions with the pre-keys that it
 * uploaded, by libsignal.
 */
import { deflateSync } from 'node:zlib'
import { libsignal, proto } from './baileys.js'
import { randomBytes, signalKey } from './crypto.js'
import * as nodes from './nodes.js'

const { ProtocolAddress, SessionBuilder, SessionCipher } = libsignal
const PRE_KEY_MESSAGE = 3

/** Where one phone keeps its sessions with devices. */
export class Mailbox {
  /** @type {Map<string, any>} */
  #sessions = new Map()
  /** @type {Promise<unknown>} */
  #queue = Promise.resolve()
  #storage

  /** @param {import('./crypto.js').KeyPair} identity */
  constructor(identity) {
    const pair = { privKey: identity.private, pubKey: signalKey(identity.public) }
    this.#storage = {
      isTrustedIdentity: () => true,
      loadSession: async (/** @type {string} */ id) => this.#sessions.get(id),
      storeSession: async (/** @type {string} */ id, /** @type {any} */ session) => {
        this.#sessions.set(id, session)
      },
      getOurIdentity: () => pair,
      getOurRegistrationId: () => 1,
    }
  }

  /**
   * One at a time: two first messages at once would start two sessions.
   *
   * @param {import('./phone.js').Device} device @param {any} message
   * @returns {Promise<import('./baileys.js').BinaryNode>} the enc node
   */
  seal(device, message) {
    const sealed = this.#queue.then(() => this.#seal(device, message))
    this.#queue = sealed.catch(() => {})
    return sealed
  }

  /** @param {import('./phone.js').Device} device @param {any} message */
  async #seal(device, message) {
    // linkedAt: a number may be given to a new device, with a new session.
    const address = new ProtocolAddress(`${device.phone.number}_${device.linkedAt}`, device.id)
    if (!this.#sessions.has(address.toString())) await this.#start(device, address)
    const padding = Buffer.alloc(1 + (randomBytes(1)[0] & 15))
    padding.fill(padding.length)
    const plain = Buffer.concat([proto.Message.encode(message).finish(), padding])
    const { type, body } = await new SessionCipher(this.#storage, address).encrypt(plain)
    return {
      tag: 'enc',
      attrs: { v: '2', type: type === PRE_KEY_MESSAGE ? 'pkmsg' : 'msg' },
      content: Buffer.from(body, 'binary'),
    }
  }

  /** @param {import('./phone.js').Device} device @param {any} address */
  async #start(device, address) {
    const { identityKey, signedPreKey, registrationId } = device
    const preKey = device.preKeys.shift()
    if (!identityKey || !signedPreKey || !preKey) {
      throw new Error(`${device.jid} has uploaded no pre-keys`)
    }
    device.preKeyCount--
    await new SessionBuilder(this.#storage, address).initOutgoing({
      registrationId,
      identityKey: signalKey(identityKey),
      signedPreKey: { ...signedPreKey, publicKey: signalKey(signedPreKey.publicKey) },
      preKey: { keyId: preKey.keyId, publicKey: signalKey(preKey.publicKey) },
    })
  }
}

/**
 * @param {import('./phone.js').Device} device
 * @param {import('./baileys.js').BinaryNode} stanza
 */
function deliver(device, stanza) {
  const connection = [...device.connections].at(-1)
  if (!connection) throw new Error(`${device.jid} is not connected`)
  connection.send(stanza)
}

/**
 * What a phone sends to a new companion at its first login: an app state key and the
 * start of the history, as messages of the category "peer" from itself. Baileys buffers
 * its events for 20 s if the history does not come.
 *
 * @param {import('./phone.js').Phone} phone @param {import('./phone.js').Device} device
 */
export async function greet(phone, device) {
  const { Type } = proto.Message.ProtocolMessage
  const { HistorySyncType } = proto.HistorySync
  const keyId = randomBytes(6)
  const share = {
    type: Type.APP_STATE_SYNC_KEY_SHARE,
    appStateSyncKeyShare: {
      keys: [
        {
          keyId: { keyId },
          keyData: {
            keyData: randomBytes(32),
            fingerprint: { rawId: 1, currentIndex: 0, deviceIndexes: [0, device.id] },
            timestamp: Date.now(),
          },
        },
      ],
    },
  }
  const history = deflateSync(
    proto.HistorySync.encode({
      syncType: HistorySyncType.INITIAL_BOOTSTRAP,
      chunkOrder: 1,
      progress: 100,
      phoneNumberToLidMappings: [{ pnJid: phone.jid, lidJid: `${phone.lid}@lid` }],
    }).finish(),
  )
  const bootstrap = {
    type: Type.HISTORY_SYNC_NOTIFICATION,
    historySyncNotification: {
      syncType: HistorySyncType.INITIAL_BOOTSTRAP,
      chunkOrder: 1,
      progress: 100,
      initialHistBootstrapInlinePayload: history,
    },
  }
  for (const protocolMessage of [share, bootstrap]) {
    const enc = await phone.mailbox.seal(device, { protocolMessage })
    deliver(device, {
      tag: 'message',
      attrs: {
        from: phone.jid, type: 'protocol', category: 'peer', id: nodes.newId(), t: nodes.unixSeconds(),
      },
      content: [enc],
    })
  }
}

/**
 * A text from a contact to one device.
 *
 * @param {import('./phone.js').Phone} contact @param {import('./phone.js').Device} device
 * @param {string} text @returns {Promise<string>} the message's id
 */
export async function sendText(contact, device, text) {
  const id = nodes.newId()
  const enc = await contact.mailbox.seal(device, { conversation: text })
  deliver(device, {
    tag: 'message',
    attrs: {
      from: contact.jid, type: 'text', id, t: nodes.unixSeconds(), notify: contact.name,
      sender_lid: `${contact.lid}@lid`,
    },
    content: [enc],
  })
  return id
}
