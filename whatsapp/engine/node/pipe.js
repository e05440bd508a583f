// @ts-check
/** The socketpair to Python: one JSON object per line, both ways (protocol.py). */
import net from 'node:net'

/** Python did not do what it was asked to; `code` says why. */
export class PipeError extends Error {
  /** @param {string} code refused, retired, failed or timeout */
  constructor(code) {
    super(`store: ${code}`)
    this.code = code
  }
}

export class Pipe {
  /** @type {Map<number, {resolve: (value: any) => void, reject: (error: Error) => void,
   *   timer: NodeJS.Timeout}>} */
  #asked = new Map()
  #next = 1
  /** Chunks that have come, ever. */
  received = 0
  #text = ''
  /** @type {string[]} */
  #outgoing = []

  /** @param {number} fd @param {(message: any) => void} onMessage */
  constructor(fd, onMessage) {
    this.#socket = new net.Socket({ fd, readable: true, writable: true })
    this.#socket.setEncoding('utf8')
    this.#socket.on('data', chunk => {
      this.received++
      this.#read(String(chunk), onMessage)
    })
    // Python is gone: with it everything that this process is for.
    for (const event of ['end', 'close', 'error']) {
      this.#socket.on(event, () => process.exit(0))
    }
  }

  #socket

  /** What is said in one round of the event loop goes out together. @param {object} message */
  send(message) {
    this.#outgoing.push(JSON.stringify(message))
    if (this.#outgoing.length === 1) setImmediate(() => this.#flush())
  }

  #flush() {
    this.#socket.write(`${this.#outgoing.join('\n')}\n`)
    this.#outgoing = []
  }

  /**
   * @param {object} message @param {number} timeoutMs
   * @returns {Promise<any>} the answer's value; rejects with a PipeError
   */
  request(message, timeoutMs) {
    const id = this.#next++
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#asked.delete(id)
        reject(new PipeError('timeout'))
      }, timeoutMs)
      this.#asked.set(id, { resolve, reject, timer })
      this.send({ ...message, id })
    })
  }

  /** @param {string} chunk @param {(message: any) => void} onMessage */
  #read(chunk, onMessage) {
    const lines = (this.#text + chunk).split('\n')
    this.#text = lines.pop() ?? ''
    for (const line of lines) {
      const message = JSON.parse(line)
      if (message.re === undefined) onMessage(message)
      else this.#answer(message)
    }
  }

  /** @param {{re: number, value?: unknown, error?: string}} message */
  #answer({ re, value, error }) {
    const asked = this.#asked.get(re)
    if (!asked) return
    this.#asked.delete(re)
    clearTimeout(asked.timer)
    if (error) asked.reject(new PipeError(error))
    else asked.resolve(value)
  }
}
