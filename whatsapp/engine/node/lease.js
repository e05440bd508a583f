// @ts-check
/**
 * Python's word that it is there, and what becomes of us without it: a gateway that is
 * stopped or blocked loses its salons to another one, and our sockets must be gone by
 * then. The kernel closes them as we exit.
 */
import * as log from './log.js'

/** As in supervision.py. */
const EXIT_CODE = 75
/** So many looks in the time of a lease. */
const LOOKS = 8

export class Lease {
  /** When the newest ping was sent, by our clock. */
  #renewed = performance.now()
  /** Our clock less Python's: the smallest is the one with the least time on the way. */
  #offset = Infinity
  #judging = false

  /**
   * @param {number} lengthMs @param {{received: number}} pipe
   * @param {() => void} [end]
   */
  constructor(lengthMs, pipe, end = () => process.exit(EXIT_CODE)) {
    this.lengthMs = lengthMs
    this.pipe = pipe
    this.end = end
    this.timer = setInterval(() => this.#look(), lengthMs / LOOKS)
  }

  /**
   * A ping counts from when it was sent: one that has long lain in the pipe, because we
   * were blocked, says nothing about the present.
   *
   * @param {number} at Python's clock, ms
   */
  renew(at) {
    this.#offset = Math.min(this.#offset, performance.now() - at)
    this.#renewed = Math.max(this.#renewed, at + this.#offset)
  }

  get isOver() {
    return performance.now() - this.#renewed > this.lengthMs
  }

  /**
   * After we were blocked or stopped ourselves this timer comes before the pipe is read,
   * and so it waits until a turn of the event loop has found nothing more in it.
   */
  #look() {
    if (this.#judging || !this.isOver) return
    this.#judging = true
    const { received } = this.pipe
    setImmediate(() => {
      this.#judging = false
      if (this.pipe.received !== received) return this.#look()
      if (!this.isOver) return
      // What dies of it is an error of its own.
      log.warning(`nothing was heard of Python for ${this.lengthMs / 1000} s, so this ends`)
      clearInterval(this.timer)
      this.end()
    })
  }
}
