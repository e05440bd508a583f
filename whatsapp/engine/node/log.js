// @ts-check
/**
 * Our log lines: one per line on stderr, read by child.py. Everything that did not
 * start as our own words is masked, because phones, keys and codes must not be logged.
 */

/** Anything that looks like a key, a token, a code's wrapping or a phone. */
const SECRET = /[A-Za-z0-9+/_-]{24,}={0,2}|\d{5,}/g

/** @param {unknown} text @returns {string} */
export const mask = text => String(text).replace(SECRET, '***').slice(0, 200)

/** @param {'DEBUG' | 'INFO' | 'WARNING' | 'ERROR'} level @param {string} text */
function write(level, text) {
  process.stderr.write(`${level} ${text.replaceAll('\n', ' ')}\n`)
}

export const debug = (/** @type {string} */ text) => write('DEBUG', text)
export const warning = (/** @type {string} */ text) => write('WARNING', text)
export const error = (/** @type {string} */ text) => write('ERROR', text)

/**
 * What Baileys gets as its logger. Its objects hold creds, stanzas and messages, so they
 * are dropped unseen; of its errors the fixed sentence is kept, masked.
 *
 * @param {string} label @returns {import('@whiskeysockets/baileys/lib/Utils/logger.js').ILogger}
 */
export function baileysLogger(label) {
  const nothing = () => {}
  /** @type {import('@whiskeysockets/baileys/lib/Utils/logger.js').ILogger} */
  const logger = {
    level: 'error',
    child: () => logger,
    trace: nothing,
    debug: nothing,
    info: nothing,
    warn: nothing,
    error: (_, text) => text && debug(`${label}: Baileys: ${mask(text)}`),
  }
  return logger
}
