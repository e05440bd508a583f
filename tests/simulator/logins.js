// @ts-check
/** What happens to a client that logs in as a device: accepted, refused, replaced. */
import * as nodes from './nodes.js'
import { randomBytes } from './crypto.js'

/** Routing info is opaque to the client: it sends it back with the next connection. */
const ROUTING_INFO = randomBytes(5)

/** Who a ClientPayload says that it is. @param {any} payload */
export function scope({ username, device }) {
  const phone = String(username)
  return { phone, jid: `${phone}${device ? `:${device}` : ''}@${nodes.SERVER}` }
}

/**
 * @param {import('./connection.js').Connection} connection
 * @param {any} payload the ClientPayload (Baileys' `generateLoginNode`)
 * @param {import('./faults.js').Fault} [failure] refuse, whatever it is
 */
export function login(connection, payload, failure) {
  const { faults, journal, phones } = connection.server
  const claimed = scope(payload)
  const { jid } = claimed
  const id = payload.device ?? 0
  const phone = phones.find(claimed.phone)
  const device = id ? phone?.devices.get(id) : undefined
  connection.phone = claimed.phone
  connection.loginStarted()
  /** @param {string} answer */
  const note = answer => journal.add('logins', { jid, answer, connection: connection.id })
  /** @param {number | string} [reason] @param {string} [why] */
  const refuse = (reason = 401, why = 'fault') => {
    note(`${reason} ${why}`)
    connection.fail(reason)
  }

  if (failure) return refuse(failure.reason)
  const fault = faults.use('login', claimed)
  if (fault?.answer === 'silence') return note('silence')
  if (fault) return refuse(fault.reason)
  if (!device) {
    // A client that asked for a code and was never linked logs in like this too, with
    // `me` set by requestPairingCode and no device in it.
    const removed = phone?.removed.has(id)
    if (removed) journal.removedLogins++
    else journal.unknownLogins++
    return refuse(401, removed ? 'removed' : 'unknown')
  }
  if (device.noiseKey && !device.noiseKey.equals(connection.noiseKey)) {
    return refuse(401, 'wrong noise key')
  }

  connection.jid = jid
  connection.device = device
  journal.deviceOpened(jid, connection.id)
  note('success')
  for (const older of [...device.connections]) older.end(nodes.streamError(440))
  device.connections.add(connection)
  connection.stage = 'open'
  connection.mute = Boolean(faults.use('no-open', claimed))
  const slow = faults.use('slow-login', claimed)
  if (slow) setTimeout(() => welcome(connection), slow.ms)
  else welcome(connection)
}

/** @param {import('./connection.js').Connection} connection */
function welcome(connection) {
  const { device } = connection
  if (!device || connection.stage !== 'open') return
  connection.send({
    tag: 'success',
    attrs: { t: nodes.unixSeconds(), lid: device.lid, creation: String(Math.floor(device.linkedAt / 1000)) },
  })
  connection.send({
    tag: 'ib',
    attrs: { from: nodes.SERVER },
    content: [
      {
        tag: 'edge_routing',
        attrs: {},
        content: [{ tag: 'routing_info', attrs: {}, content: ROUTING_INFO }],
      },
    ],
  })
}

/**
 * The client has said `<active/>`, the last step of its login that the server sees
 * before the key-bundle digest: it now hears that nothing is waiting for it, and a new
 * device hears from its phone.
 *
 * @param {import('./connection.js').Connection} connection
 */
export function activated(connection) {
  const { device } = connection
  connection.loginOver()
  connection.send({
    tag: 'ib',
    attrs: { from: nodes.SERVER },
    content: [{ tag: 'offline', attrs: { count: '0' } }],
  })
  if (device && !device.greeted) {
    device.greeted = true
    device.phone.greet(device).catch(error => process.stderr.write(`greeting: ${error.stack}\n`))
  }
}
