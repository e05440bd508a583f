// @ts-check
// Clocks, sleep and the network: a phone goes to WhatsApp and comes back, a connection
// dies without a word, a code runs out.

import { openAttempt } from "./state.js";

/** @typedef {import("./state.js").State} State */

const LOOK_MS = 20_000;

/**
 * @param {State} state
 * @param {import("./socket.js").Connection} connection
 * @param {{tick: () => void, codeEnded: () => void}} told tick: every second; codeEnded: once,
 *   while nobody else can say it
 * @param {AbortSignal} signal
 */
export const stayAwake = (state, connection, { tick, codeEnded }, signal) => {
  let looked = Date.now();
  let ended = 0; // the clock of the code that ran out last

  const ticker = setInterval(() => {
    tick();
    const now = Date.now();
    if (state.code && state.code.until <= now && ended !== state.code.until) {
      ended = state.code.until;
      if (state.link === "up") connection.check();
      else codeEnded();
    }
    // While somebody waits, a connection that died unnoticed must not go unnoticed.
    if (openAttempt(state) && !document.hidden && now - looked > LOOK_MS) {
      looked = now;
      connection.check();
    }
  }, 1000);
  signal.addEventListener("abort", () => clearInterval(ticker));

  const wake = () => {
    if (document.hidden || state.link === "over") return;
    tick();
    looked = Date.now();
    connection.check();
  };
  addEventListener("online", wake, { signal });
  addEventListener("pageshow", wake, { signal });
  document.addEventListener("visibilitychange", wake, { signal });
  addEventListener("offline", () => connection.cut(), { signal });
};
