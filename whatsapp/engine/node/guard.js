// @ts-check
/** What a socket of Baileys does not survive, or does not end by itself (baileys.md, B). */

/** @param {unknown} error from Node's AES-GCM @returns {boolean} */
export const isUndecryptable = error => /authenticat|tag length/i.test(String(error))

/**
 * Gives the errors of Baileys' own listeners an owner. A rejection or an exception in one
 * of them would be nobody's, and end the process with every session in it.
 *
 * A frame that no key opens is the end: nothing after it can be read. One that opens into
 * nonsense is skipped; what came with it is still in Baileys' buffer, and an empty read
 * gets it out.
 *
 * @param {any} ws Baileys' WebSocketClient, before its first frame
 * @param {{onBadFrame: (error: unknown) => void,
 *   onError: (event: string, error: unknown) => void}} owner
 */
export function guardListeners(ws, { onBadFrame, onError }) {
  for (const event of ws.eventNames()) {
    if (event !== 'message' && !event.startsWith('CB:')) continue
    for (const listener of ws.listeners(event)) {
      const onFailure = (/** @type {unknown} */ error) => {
        if (event !== 'message') return onError(event, error)
        onBadFrame(error)
        if (!isUndecryptable(error)) listener(Buffer.alloc(0)).catch(onFailure)
      }
      ws.off(event, listener)
      ws.on(event, (/** @type {unknown[]} */ ...args) => {
        try {
          listener(...args)?.catch?.(onFailure)
        } catch (error) {
          onFailure(error)
        }
      })
    }
  }
}

/**
 * A peer that does not answer our close is cut off: ws would wait for 30 s, and Baileys
 * says that it has closed only afterwards.
 *
 * @param {any} ws Baileys' WebSocketClient @param {number} graceMs
 */
export function limitClosing(ws, graceMs) {
  const { socket } = ws
  const close = ws.close.bind(ws)
  ws.close = () => {
    const timer = setTimeout(() => socket.terminate(), graceMs)
    return close().finally(() => clearTimeout(timer))
  }
}
