// @ts-check
// What a screen knows, and what follows from it (pure).

/** @typedef {import("./problems.js").Way} Way */
/** @typedef {import("./problems.js").Problem} Problem */

/**
 * @typedef {object} Status the data of the server's event
 * @property {string} status
 * @property {string | null} phone
 * @property {string | null} since
 * @property {{kind: Way, stage: string, expiresIn: number} | null} attempt
 * @property {string | null} reason
 * @property {string} message
 * @property {string | null} action
 *
 * @typedef {object} State
 * @property {"waiting" | "up" | "lost" | "over"} link how the connection to us fares
 * @property {Status | null} status
 * @property {string} news said by the server beside the status
 * @property {Way} way what is on the screen
 * @property {Way | ""} asking for what an answer is awaited
 * @property {{text: string, phone: string, until: number} | null} code
 * @property {{svg: string, until: number} | null} qr
 * @property {Problem | null} problem
 * @property {boolean} changing a linked salon wants another number
 */

const LINKED = ["connecting", "open", "degraded", "reconnecting", "stopped", "replaced",
  "banned", "outdated", "needs_attention"];
const UNLINKED = ["unlinked", "pairing", "logged_out", "needs_attention"];

/** @param {State} state */
export const openAttempt = ({ status }) =>
  status?.status === "pairing" ? status.attempt : null;

/** @param {State} state */
export const isLinked = ({ status }) =>
  Boolean(status?.phone) && LINKED.includes(status?.status ?? "");

/** @param {State} state @param {string[]} may whether a phone can be linked on this screen */
export const isLinking = (state, may) =>
  may.includes("link") && state.link !== "over" && state.status !== null
  && openAttempt(state)?.stage !== "finishing"
  && (UNLINKED.includes(state.status.status) || state.changing);

/** @param {State} state connected, but not as it should be: with another phone than expected */
export const isWarned = ({ status }) => status?.status === "open" && Boolean(status.reason);
