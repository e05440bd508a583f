// @ts-check
// The connection to our service: it comes back by itself, and says how it fares.

const RETRY_FIRST_MS = 500;
const RETRY_MAX_MS = 30_000;
const TOO_MANY_MS = 60_000;
const OFFLINE_MS = 15_000;
const OPEN_MS = 15_000;
const SIGN_OF_LIFE_MS = 5_000;

export const TOO_MANY = 4429;
const OVER = [4401, 4403];

/**
 * @typedef {object} Listener
 * @property {(event: string, data: any) => void} said the server said something
 * @property {(code: number, retryMs: number) => void} lost it is cut; next try in retryMs
 * @property {(code: number) => void} over the server wants us no more
 */

export class Connection {
  /** @type {WebSocket | null} */
  #socket = null;
  #failures = 0;
  #ended = false;
  #retryTimer = 0;
  #lifeTimer = 0;

  /** @param {string} address @param {string[]} protocols @param {Listener} listener */
  constructor(address, protocols, listener) {
    this.address = address;
    this.protocols = protocols;
    this.listener = listener;
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  connect() {
    clearTimeout(this.#retryTimer);
    if (this.#ended || (this.#socket && this.#socket.readyState <= WebSocket.OPEN)) return;
    const socket = new WebSocket(this.address, this.protocols);
    this.#socket = socket;
    // A network that swallows everything would keep us waiting for minutes.
    this.#expectLife(OPEN_MS);
    socket.onmessage = (message) => {
      if (socket !== this.#socket) return;
      clearTimeout(this.#lifeTimer);
      this.#failures = 0;
      const { event, data } = JSON.parse(message.data);
      this.listener.said(event, data ?? {});
    };
    socket.onclose = (closed) => {
      if (socket === this.#socket) this.#closed(closed.code);
    };
  }

  /** @param {string} event @param {object} [data] @returns {boolean} whether it was sent */
  send(event, data) {
    if (!this.isOpen) {
      this.connect();
      return false;
    }
    this.#socket?.send(JSON.stringify({ event, data: data ?? {} }));
    return true;
  }

  /**
   * Find out whether the connection still lives: a phone that comes back from WhatsApp
   * may hold one that died unnoticed.
   */
  check() {
    if (this.send("get-status")) this.#expectLife(SIGN_OF_LIFE_MS);
  }

  /** Give the connection up without waiting for the network to notice. */
  cut() {
    if (this.#socket) this.#closed(1006);
  }

  end() {
    this.#ended = true;
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#lifeTimer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  /** @param {number} ms */
  #expectLife(ms) {
    clearTimeout(this.#lifeTimer);
    this.#lifeTimer = setTimeout(() => {
      this.cut();
      this.connect();
    }, ms);
  }

  /** @param {number} code */
  #closed(code) {
    clearTimeout(this.#lifeTimer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    if (OVER.includes(code)) {
      this.end();
      this.listener.over(code);
      return;
    }
    this.#failures += 1;
    const backoff = Math.min(RETRY_FIRST_MS * 2 ** Math.min(this.#failures, 10), RETRY_MAX_MS);
    const least = code === TOO_MANY ? TOO_MANY_MS : navigator.onLine ? 0 : OFFLINE_MS;
    const delay = least + backoff * (0.5 + Math.random() / 2);
    this.#retryTimer = setTimeout(() => this.connect(), delay);
    this.listener.lost(code, delay);
  }
}
