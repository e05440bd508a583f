// @ts-check
/**
 * A phone: the primary device of one number. It owns the account's identity key, knows
 * its companions, scans QR codes and takes typed codes.
 */
import {
  ctr,
  decryptGcm,
  generateKeyPair,
  hkdf,
  pairingCodeKey,
  randomBytes,
  sharedKey,
} from './crypto.js'
import { isSigned, pairSuccess, vouch } from './identity.js'
import * as nodes from './nodes.js'
import * as signal from './signal.js'

const EMPTY = Buffer.alloc(0)

/**
 * @typedef {{identityKey: Buffer, registrationId: number, platform: string,
 *   signedPreKey: {keyId: number, publicKey: Buffer, signature: Buffer}}} Companion
 * @typedef {{id: number, jid: string, lid: string, phone: Phone, linkedAt: number,
 *   platform: string, noiseKey?: Buffer, identityKey?: Buffer, registrationId?: number,
 *   signedPreKey?: Companion['signedPreKey'],
 *   preKeys: {keyId: number, publicKey: Buffer}[], preKeyCount: number, greeted: boolean,
 *   connections: Set<import('./connection.js').Connection>}} Device
 * @typedef {{connection: import('./connection.js').Connection, ref: string, wrapped: Buffer}} Hello
 * @typedef {{ok: true, jid: string} | {ok: false, error: string}} Linked
 */

export class Phone {
  /** @type {Map<number, Device>} the companions; the phone itself is device 0 */
  devices = new Map()
  /** @type {Set<number>} */
  removed = new Set()
  /** @type {Hello | undefined} the newest hello wins: an older code is then a wrong one */
  hello
  exists = true
  /** Whether WhatsApp asks this account for a passkey when it links a device. */
  passkey = false
  name = 'Simulated phone'
  identity = generateKeyPair()
  #nextDevice = 1
  rawId = randomBytes(4).readUInt32BE()

  /** @param {import('./server.js').Server} server @param {string} number @param {string} lid */
  constructor(server, number, lid) {
    this.server = server
    this.number = number
    this.lid = lid
    this.mailbox = new signal.Mailbox(this.identity)
  }

  get jid() {
    return `${this.number}@${nodes.SERVER}`
  }

  /** @param {string} qr @param {number} timeoutMs @returns {Promise<Linked>} */
  async scan(qr, timeoutMs) {
    const linked = await this.#scan(qr, timeoutMs).catch(failed)
    this.server.journal.add('scans', { phone: this.number, ...linked })
    return linked
  }

  /**
   * The text is "<url>#<ref>,<noise key>,<identity key>,<adv secret>,<platform>"; older
   * clients leave the url out (`buildPairingQRData`, whatsmeow's makeQRData).
   *
   * @param {string} qr @param {number} timeoutMs @returns {Promise<Linked>}
   */
  async #scan(qr, timeoutMs) {
    const [ref, noiseKey, identityKey, advSecret] = qr.slice(qr.indexOf('#') + 1).split(',')
    if (!advSecret) return { ok: false, error: 'not a WhatsApp QR' }
    if (!this.exists) return { ok: false, error: 'no account' }
    const connection = this.server.refs.get(ref)
    if (!connection || connection.stage !== 'registration') return { ok: false, error: 'unknown ref' }
    if (!connection.noiseKey.equals(Buffer.from(noiseKey, 'base64'))) {
      return { ok: false, error: 'the QR belongs to another connection' }
    }
    // After companion_reg_refresh a client must show a new secret, which Baileys does not.
    if (connection.retired) return { ok: false, error: "couldn't link device" }
    if (this.passkey) return this.#askForPasskey(connection)
    const keys = {
      identityKey: Buffer.from(identityKey, 'base64'),
      advSecret: Buffer.from(advSecret, 'base64'),
    }
    return this.#link(connection, keys, timeoutMs)
  }

  /** @param {string} code @param {number} timeoutMs @returns {Promise<Linked>} */
  async enterCode(code, timeoutMs) {
    const linked = await this.#enterCode(code, timeoutMs).catch(failed)
    this.server.journal.add('codes', { phone: this.number, ...linked })
    return linked
  }

  /**
   * The phone's side of a pairing code (Baileys' `requestPairingCode` and its handler of
   * link_code_companion_reg hold the other side):
   * 1. the hello holds the companion's ephemeral key, encrypted with the code;
   * 2. the phone answers with its own, encrypted with the code as typed;
   * 3. the companion sends a key bundle, encrypted with what both keys agree on. Only a
   *    phone that typed the right code can open it: this is where a wrong one shows;
   * 4. what is in it makes the adv secret that vouches for pair-success.
   *
   * @param {string} typed @param {number} timeoutMs @returns {Promise<Linked>}
   */
  async #enterCode(typed, timeoutMs) {
    const code = typed.replace(/[^0-9a-z]/gi, '').toUpperCase()
    if (code.length !== 8) return { ok: false, error: 'malformed code' }
    const { hello } = this
    if (!hello) return { ok: false, error: 'no pending code' }
    const { connection, wrapped } = hello
    if (this.passkey) return this.#askForPasskey(connection)

    const helloKey = await pairingCodeKey(code, wrapped.subarray(0, 32))
    const companionKey = ctr(wrapped.subarray(48), helloKey, wrapped.subarray(32, 48))
    const ephemeral = generateKeyPair()
    const salt = randomBytes(32)
    const iv = randomBytes(16)
    const ours = ctr(ephemeral.public, await pairingCodeKey(code, salt), iv)
    if (connection.stage !== 'registration') return { ok: false, error: 'no pending code' }
    const finish = await this.#primaryHello(hello, Buffer.concat([salt, iv, ours]), timeoutMs)

    const bundle = nodes.bytes(finish, 'link_code_pairing_wrapped_key_bundle') ?? EMPTY
    const agreed = sharedKey(ephemeral.private, companionKey)
    const bundleKey = hkdf(agreed, 32, {
      salt: bundle.subarray(0, 32),
      info: 'link_code_pairing_key_bundle_encryption_key',
    })
    let opened
    try {
      opened = decryptGcm(bundle.subarray(44), bundleKey, bundle.subarray(32, 44), EMPTY)
    } catch {
      return { ok: false, error: 'wrong code' }
    }
    const identityKey = opened.subarray(0, 32)
    if (!opened.subarray(32, 64).equals(this.identity.public)) {
      return { ok: false, error: 'the bundle names another phone' }
    }
    const advSecret = hkdf(
      Buffer.concat([agreed, sharedKey(this.identity.private, identityKey), opened.subarray(64)]),
      32,
      { info: 'adv_secret' },
    )
    return this.#link(connection, { identityKey, advSecret }, timeoutMs)
  }

  /**
   * @param {Hello} hello @param {Buffer} wrapped @param {number} timeoutMs
   * @returns {Promise<import('./baileys.js').BinaryNode>} the companion's finish
   */
  #primaryHello({ connection, ref }, wrapped, timeoutMs) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => settle(new Error('the client did not answer')), timeoutMs)
      /** @param {import('./baileys.js').BinaryNode | Error} finish */
      const settle = finish => {
        clearTimeout(timer)
        connection.onFinish = undefined
        if (finish instanceof Error) reject(finish)
        else resolve(finish)
      }
      connection.onFinish?.(new Error('another code was typed'))
      connection.onFinish = settle
      connection.send(
        nodes.notification('link_code_companion_reg', [
          {
            tag: 'link_code_companion_reg',
            attrs: { stage: 'primary_hello' },
            content: [
              { tag: 'link_code_pairing_wrapped_primary_ephemeral_pub', attrs: {}, content: wrapped },
              { tag: 'primary_identity_pub', attrs: {}, content: this.identity.public },
              { tag: 'link_code_pairing_ref', attrs: {}, content: Buffer.from(ref) },
            ],
          },
        ]),
      )
    })
  }

  /**
   * Vouches for a companion and waits until it has signed in return: only then is the
   * device in the table.
   *
   * @param {import('./connection.js').Connection} connection
   * @param {{identityKey: Buffer, advSecret: Buffer}} keys
   * @param {number} timeoutMs @returns {Promise<Linked>}
   */
  async #link(connection, { identityKey, advSecret }, timeoutMs) {
    const { faults } = this.server
    const id = this.#freeDevice()
    const jid = `${this.number}:${id}@${nodes.SERVER}`
    const { details, vouched } = vouch(this, id, identityKey, advSecret)
    connection.phone = this.number
    const scope = { phone: this.number, jid }
    const cut = faults.use('drop-after-pair-success', scope)
    const asked = connection.ask(pairSuccess(jid, `${this.lid}:${id}@lid`, vouched), timeoutMs)
    if (cut?.unverified) connection.post(() => connection.drop())
    const reply = await asked
    if (!isSigned(this, details, identityKey, reply)) {
      connection.end(nodes.streamError(401))
      return { ok: false, error: 'the device signature is wrong' }
    }
    this.#add({
      id, noiseKey: connection.noiseKey, ...connection.companion, identityKey, preKeyCount: 0,
    })
    if (this.hello?.connection === connection) this.hello = undefined
    this.#restart(connection, scope, cut !== undefined)
    return { ok: true, jid }
  }

  /** @param {import('./connection.js').Connection} connection @param {import('./faults.js').Scope} scope @param {boolean} cut */
  #restart(connection, scope, cut) {
    const { faults } = this.server
    if (cut) return connection.drop()
    if (faults.use('no-515', scope)) return
    const late = faults.use('late-515', scope)
    if (late) setTimeout(() => connection.end(nodes.streamError(515)), late.ms)
    else connection.end(nodes.streamError(515))
  }

  /** Numbers go up with each link and start again at 99: a jid has one byte for them. */
  #freeDevice() {
    let id = this.#nextDevice
    while (this.devices.has(id)) id = (id % 99) + 1
    this.#nextDevice = (id % 99) + 1
    return id
  }

  /** @param {Partial<Device> & {id: number}} device @returns {Device} */
  #add(device) {
    const jid = `${this.number}:${device.id}@${nodes.SERVER}`
    const added = {
      jid,
      lid: `${this.lid}:${device.id}@lid`,
      phone: this,
      linkedAt: Date.now(),
      platform: 'unknown',
      preKeys: [],
      preKeyCount: 0,
      greeted: false,
      connections: new Set(),
      ...device,
    }
    this.devices.set(device.id, added)
    this.removed.delete(device.id)
    Object.assign(this.server.journal.device(jid), { linkedAt: added.linkedAt, removedAt: undefined })
    return added
  }

  /**
   * Makes a device that was never linked here count as linked, for creds that a test has
   * made up. Any noise key may log in as it. It is taken to have pre-keys on the server,
   * so that its login is as cheap as a later one.
   *
   * @param {number} id @param {{identityKey?: Buffer, preKeyCount?: number}} [known]
   */
  adopt(id, { identityKey, preKeyCount = 812 } = {}) {
    return this.#add({ id, platform: 'adopted', identityKey, preKeyCount, greeted: preKeyCount > 0 })
  }

  /**
   * Makes a device that has the same keys as another one, of another phone: so thousands
   * can log in with one real link's creds and read what they are sent.
   *
   * @param {Device} model
   */
  double({ id, noiseKey, identityKey, registrationId, signedPreKey, preKeys, preKeyCount }) {
    const keys = { noiseKey, identityKey, registrationId, signedPreKey }
    return this.#add({
      id, platform: 'doubled', ...keys, preKeys: [...preKeys], preKeyCount, greeted: true,
    })
  }

  /** Unlinks; clients that are online hear of it. @param {number} id */
  remove(id) {
    const device = this.devices.get(id)
    if (!device) return false
    this.devices.delete(id)
    this.removed.add(id)
    this.server.journal.device(device.jid).removedAt = Date.now()
    for (const connection of [...device.connections]) {
      connection.end(nodes.streamError(401, 'device_removed'))
    }
    return true
  }

  /** What a phone sends to a companion that it has just linked. @param {Device} device */
  greet(device) {
    return signal.greet(this, device)
  }

  /**
   * The notification that accounts get which must show a passkey. Its type and its
   * child are known from whatsmeow's pair-passkey.go and from captures in
   * WhiskeySockets/Baileys#2672 (after a scan); that a typed code leads to the same one
   * is a guess. Baileys acknowledges and drops it.
   *
   * @param {import('./connection.js').Connection} connection @returns {Linked}
   */
  #askForPasskey(connection) {
    connection.send(passkeyRequest())
    return { ok: false, error: 'passkey required' }
  }

  toJSON() {
    return {
      phone: this.number,
      lid: `${this.lid}@lid`,
      name: this.name,
      exists: this.exists,
      passkey: this.passkey,
      pendingCode: this.hello !== undefined,
      devices: [...this.devices.values()].map(device => ({
        jid: device.jid,
        device: device.id,
        linkedAt: device.linkedAt,
        connected: device.connections.size > 0,
        platform: device.platform,
      })),
    }
  }
}

/** @param {Error} error @returns {Linked} */
const failed = error => ({ ok: false, error: error.message })

export const passkeyRequest = () =>
  nodes.notification('passkey_prologue_request', [
    {
      tag: 'passkey_request_options',
      attrs: {},
      content: Buffer.from(
        JSON.stringify({
          challenge: randomBytes(32).toString('base64url'),
          rpId: 'whatsapp.com',
          timeout: 600000,
          userVerification: 'required',
          allowCredentials: [],
        }),
      ),
    },
  ])
