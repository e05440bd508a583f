// @ts-check
/** The control port: JSON over HTTP, and the demo page. */
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { KINDS } from './faults.js'
import * as nodes from './nodes.js'
import { pairDevice } from './pairing.js'
import { sendText } from './signal.js'
import { traffic } from './traffic.js'

const LINK_TIMEOUT_MS = 10_000
const MAX_BODY = 1 << 20

/** An error that the caller made. */
class Refusal extends Error {
  /** @param {string} message @param {number} [status] */
  constructor(message, status = 400) {
    super(message)
    this.status = status
  }
}

/** @typedef {import('./server.js').Server} Server */
/** @typedef {Record<string, any>} Body */
/** @typedef {(server: Server, args: string[], body: Body) => unknown} Handler */

/** @param {unknown} value @returns {string} */
function number(value) {
  const digits = String(value ?? '').replace(/^\+/, '')
  if (!/^\d{5,20}$/.test(digits)) throw new Refusal('phone: digits expected')
  return digits
}

/** @param {Server} server @param {unknown} value */
function known(server, value) {
  const phone = server.phones.find(number(value))
  if (!phone) throw new Refusal('no such phone', 404)
  return phone
}

/** @param {Body} body @param {string} name */
function text(body, name) {
  if (typeof body[name] !== 'string' || !body[name]) throw new Refusal(`${name}: text expected`)
  return /** @type {string} */ (body[name])
}

/** @param {(connection: import('./connection.js').Connection, body: Body) => void} act @returns {Handler} */
const onConnections = act => (server, _, body) => {
  const connections = server.select(body)
  for (const connection of connections) act(connection, body)
  return { connections: connections.length }
}

/** Stanzas that Baileys still dispatches behind a stream error in the same chunk. */
const BEHIND = {
  'pair-device': () => pairDevice(['2@late']),
  dirty: () => ({
    tag: 'ib',
    attrs: { from: nodes.SERVER },
    content: [{ tag: 'dirty', attrs: { type: 'groups', timestamp: nodes.unixSeconds() } }],
  }),
  offline_preview: () => ({
    tag: 'ib',
    attrs: { from: nodes.SERVER },
    content: [{ tag: 'offline_preview', attrs: { count: '1' } }],
  }),
}

/** @type {[string, RegExp, Handler][]} */
const ROUTES = [
  ['GET', /^\/healthz$/, () => ({ ok: true })],
  ['GET', /^\/journal$/, server => server.journal],
  ['GET', /^\/journal\/sockets\/(\d+)$/, (server, [from]) => server.journal.sockets(Number(from))],
  ['DELETE', /^\/journal$/, server => (server.journal.reset(), { ok: true })],
  ['GET', /^\/connections$/, server =>
    [...server.connections].map(({ id, stage, phone, jid }) => ({ id, stage, phone, jid }))],
  ['GET', /^\/phones$/, server => server.phones.all()],
  ['POST', /^\/phones$/, (server, _, { phone, name, exists, passkey }) => {
    const found = server.phones.get(number(phone))
    for (const [key, value] of Object.entries({ name, exists, passkey })) {
      if (value !== undefined) Object.assign(found, { [key]: value })
    }
    return found
  }],
  ['GET', /^\/phones\/(\+?\d+)$/, (server, [phone]) => known(server, phone)],
  ['POST', /^\/phones\/(\+?\d+)\/scan$/, async (server, [phone], body) => {
    const qr = text(body, 'qr')
    if (body.delayMs) await new Promise(resolve => setTimeout(resolve, body.delayMs))
    return server.phones.get(number(phone)).scan(qr, body.timeoutMs ?? LINK_TIMEOUT_MS)
  }],
  ['POST', /^\/phones\/(\+?\d+)\/enter-code$/, (server, [phone], body) =>
    server.phones.get(number(phone)).enterCode(text(body, 'code'), body.timeoutMs ?? LINK_TIMEOUT_MS)],
  ['POST', /^\/phones\/(\+?\d+)\/remove-device$/, (server, [phone], { device }) => {
    const owner = known(server, phone)
    const ids = device === undefined ? [...owner.devices.keys()] : [Number(device)]
    return { removed: ids.filter(id => owner.remove(id)) }
  }],
  ['POST', /^\/phones\/(\+?\d+)\/adopt-device$/, (server, [phone], body) => {
    const parsed = nodes.parseJid(text(body, 'jid'))
    if (!parsed?.device || parsed.device > 99 || parsed.user !== number(phone)) {
      throw new Refusal('jid: <this phone>:<device, 1 to 99>@s.whatsapp.net expected')
    }
    const identityKey = body.identityKey && Buffer.from(body.identityKey, 'base64')
    const { jid, lid } = server.phones
      .get(parsed.user)
      .adopt(parsed.device, { identityKey, preKeyCount: body.preKeyCount })
    return { ok: true, jid, lid }
  }],
  ['POST', /^\/devices$/, (server, _, { like, phones }) => {
    const { user = '', device = 0 } = nodes.parseJid(String(like)) ?? {}
    const model = server.phones.find(user)?.devices.get(device)
    if (!model) throw new Refusal('like: the jid of a linked device expected')
    if (!Array.isArray(phones)) throw new Refusal('phones: a list expected')
    const devices = phones.map(phone => server.phones.get(number(phone)).double(model))
    return { devices: devices.map(({ phone, jid, lid }) => ({ phone: phone.number, jid, lid })) }
  }],
  ['POST', /^\/traffic$/, (server, _, { jids, seconds, contact }) => {
    if (!Array.isArray(jids)) throw new Refusal('jids: a list expected')
    const writer = server.phones.get(number(contact))
    return traffic(server, writer, jids.map(String), Number(seconds ?? 0))
  }],
  ['POST', /^\/phones\/(\+?\d+)\/send$/, async (server, [phone], body) => {
    const contact = server.phones.get(number(body.from))
    const devices = [...known(server, phone).devices.values()].filter(({ id, connections }) =>
      body.device === undefined ? connections.size > 0 : id === Number(body.device))
    if (!devices.length) throw new Refusal('no such device is connected', 409)
    const words = text(body, 'text')
    return { ids: await Promise.all(devices.map(device => sendText(contact, device, words))) }
  }],
  ['GET', /^\/faults$/, server => ({ faults: server.faults, kinds: KINDS })],
  ['POST', /^\/faults$/, (server, _, body) => {
    const phone = body.phone === undefined ? {} : { phone: number(body.phone) }
    return { id: server.faults.add({ .../** @type {any} */ (body), ...phone }) }
  }],
  ['DELETE', /^\/faults$/, server => (server.heal(), { ok: true })],
  // Removing one that is used up is no error: the caller cannot know.
  ['DELETE', /^\/faults\/(\d+)$/, (server, [id]) => ({ ok: true, removed: server.faults.remove(id) })],
  ['POST', /^\/connections\/drop$/, onConnections(connection => connection.drop())],
  ['POST', /^\/connections\/freeze$/, onConnections((connection, { on }) => connection.freeze(on !== false))],
  ['POST', /^\/connections\/garbage$/, onConnections(connection => connection.sendGarbage())],
  ['POST', /^\/connections\/undecodable$/, onConnections(connection => connection.sendUndecodable())],
  ['POST', /^\/connections\/stream-error$/, onConnections((connection, { code, conflict, behind }) => {
    const late = behind && BEHIND[/** @type {'dirty'} */ (behind)]
    if (behind && !late) throw new Refusal(`behind: one of ${Object.keys(BEHIND)}`)
    connection.end(nodes.streamError(Number(code ?? 503), conflict), ...(late ? [late()] : []))
  })],
]

/** @param {import('node:http').IncomingMessage} request @returns {Promise<Body>} */
async function readBody(request) {
  const chunks = []
  let size = 0
  for await (const chunk of request) {
    size += chunk.length
    if (size > MAX_BODY) throw new Refusal('body too large', 413)
    chunks.push(chunk)
  }
  if (!size) return {}
  try {
    return JSON.parse(Buffer.concat(chunks).toString()) ?? {}
  } catch {
    throw new Refusal('the body is not JSON')
  }
}

/** @param {Server} server @param {string} method @param {string} path @param {Body} body */
async function handle(server, method, path, body) {
  const routes = ROUTES.filter(([, pattern]) => pattern.test(path))
  const route = routes.find(([verb]) => verb === method)
  if (!route) throw new Refusal('not found', routes.length ? 405 : 404)
  const args = route[1].exec(path)?.slice(1) ?? []
  try {
    return await route[2](server, args, body)
  } catch (error) {
    // A plain Error is a sentence for the caller; a TypeError and the like are ours.
    const { constructor, message } = /** @type {Error} */ (error)
    throw constructor === Error ? new Refusal(message) : error
  }
}

/** @param {Server} server */
export function createControl(server) {
  return createServer(async (request, response) => {
    const path = new URL(request.url ?? '/', 'http://control').pathname
    /** @param {number} status @param {unknown} value */
    const reply = (status, value) => {
      response.writeHead(status, { 'content-type': 'application/json' })
      response.end(JSON.stringify(value))
    }
    try {
      if (request.method === 'GET' && path === '/') {
        // Read anew each time: editing the page needs no restart.
        response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' })
        return response.end(readFileSync(new URL('demo.html', import.meta.url)))
      }
      reply(200, await handle(server, request.method ?? 'GET', path, await readBody(request)))
    } catch (error) {
      const { status = 500, message } = /** @type {Refusal} */ (error)
      reply(status, { error: message })
    }
  })
}
