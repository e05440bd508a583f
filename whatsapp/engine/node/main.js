// @ts-check
/**
 * The process: commands from Python in, events out; protocol.py has the contract. It does
 * what it is told and exits when the pipe ends.
 */
import './runtime.js'
import './curve.js'
import { createRequire } from 'node:module'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { DEFAULT_CONNECTION_CONFIG, initAuthCreds } from '@whiskeysockets/baileys'
import { isLinked, parseCreds } from './auth-state.js'
import { CodePool } from './codes.js'
import { Lease } from './lease.js'
import * as log from './log.js'
import { Refused } from './pairing.js'
import { Pipe } from './pipe.js'
import { Session } from './session.js'

/** How often the event loop is looked at; its histogram counts this as well. */
const LAG_RESOLUTION_MS = 20

/** @type {Map<number, Session>} by generation */
const sessions = new Map()
const lag = monitorEventLoopDelay({ resolution: LAG_RESOLUTION_MS })
lag.enable()
/** @type {import('./session.js').Settings} */
let settings
/** @type {CodePool} */
let codes
/** @type {Lease} */
let lease

const pipe = new Pipe(Number(process.env.ENGINE_FD), message => {
  if (message.cmd === 'ping') answerPing(message)
  else void obey(message)
})

/** @type {Record<string, (message: any) => unknown>} */
const commands = {
  configure({ settings: given }) {
    settings = given
    codes = new CodePool(given.readyCodes)
    setInterval(tellAlive, given.aliveMs)
    lease = new Lease(given.leaseMs, pipe)
    const { version } = createRequire(import.meta.url)('@whiskeysockets/baileys/package.json')
    const { version: web } = DEFAULT_CONNECTION_CONFIG
    return { baileys: version, node: process.versions.node, web }
  },

  open({ g, label, creds: text, version }) {
    if (sessions.has(g)) throw new Error('this generation is open already')
    codes.postpone()
    const creds = text === null ? initAuthCreds() : parseCreds(text)
    const session = new Session({
      label,
      creds,
      stored: text !== null,
      settings: { ...settings, version },
      codes,
      emit: (ev, data) => pipe.send({ ev, g, ...data }),
      ask: (request, timeoutMs) => pipe.request({ ...request, g }, timeoutMs),
      onGone: () => sessions.delete(g),
    })
    sessions.set(g, session)
    return { linked: isLinked(creds) }
  },

  async request_code({ g, phone, timeout_ms: timeoutMs }) {
    const session = sessions.get(g)
    if (!session) throw new Refused('closed', 'the session is not open')
    return session.requestCode(phone, timeoutMs)
  },

  close: ({ g, unlink }) => sessions.get(g)?.close(unlink),

  shutdown: () => Promise.all([...sessions.values()].map(session => session.close(false))),
}

/** Python is there, and so are we: how we are doing goes with it. @param {{at: number}} message */
function answerPing({ at }) {
  lease.renew(at)
  const { rss, heapUsed } = process.memoryUsage()
  pipe.send({
    ev: 'pulse',
    at,
    sessions: sessions.size,
    rss,
    heap: heapUsed,
    codes_ready: codes.ready,
    lag_mean_ms: lagMs(lag.mean),
    lag_max_ms: lagMs(lag.max),
  })
  lag.reset()
}

/** @param {number} nanoseconds NaN before the first look */
const lagMs = nanoseconds => Math.max((nanoseconds || 0) / 1e6 - LAG_RESOLUTION_MS, 0)

/** @param {{id: number, cmd: string}} message */
async function obey(message) {
  const { id: re } = message
  try {
    pipe.send({ re, value: (await commands[message.cmd](message)) ?? null })
  } catch (error) {
    if (error instanceof Refused) {
      pipe.send({ re, refused: { kind: error.kind, detail: error.message, ...error.more } })
    } else {
      pipe.send({ re, error: log.mask(error) })
    }
  }
}

/** One timer for all sessions: who was heard since the last time, and how long ago. */
function tellAlive() {
  const now = Date.now()
  /** @type {Record<number, number>} */
  const seen = {}
  for (const [generation, session] of sessions) {
    if (session.heard && session.heardAt) seen[generation] = now - session.heardAt
    session.heard = false
  }
  if (Object.keys(seen).length) pipe.send({ ev: 'alive', seen })
}

// Late promises of ended sockets, mostly; session.js catches what it can attribute.
process.on('unhandledRejection', error => log.warning(`unhandled rejection: ${log.mask(error)}`))
// Timers of one socket must not end all the others.
process.on('uncaughtException', error => log.error(`uncaught exception: ${log.mask(error?.stack)}`))
