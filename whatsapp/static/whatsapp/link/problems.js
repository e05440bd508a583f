// @ts-check
// Every trouble has something that can be done about it.

/** @typedef {"again" | "other" | "number" | "reset" | "reload" | "reconnect" | "dismiss"} Remedy */
/** @typedef {"code" | "qr"} Way */

/**
 * @typedef {object} Problem
 * @property {string} code of the catalogue, or one of our own below
 * @property {string} message
 * @property {Way} way what failed
 * @property {number} until when asking again makes sense (Date.now()); 0: at once
 */

export const LOCAL_NUMBER = "LOCAL_NUMBER";
export const NO_ANSWER = "NO_ANSWER";
export const FLOOD = "FLOOD";

/** About the number: these stand beside the field. */
export const OF_NUMBER = [
  LOCAL_NUMBER, "PHONE_REQUIRED", "INVALID_PHONE_FORMAT", "PHONE_NOT_ON_WHATSAPP",
  "CREDENTIALS_CONFLICT",
];

/** Where the server says no time, but at once would be of no use. */
export const LEAST_MS = 5_000;
const NOT_AT_ONCE = ["REQUEST_IN_PROGRESS"];

/** @type {Record<string, Remedy[]>} */
const REMEDIES = {
  [LOCAL_NUMBER]: [],
  [NO_ANSWER]: ["again", "other"],
  [FLOOD]: ["reconnect"],
  PHONE_REQUIRED: ["number"],
  INVALID_PHONE_FORMAT: ["number"],
  PHONE_NOT_ON_WHATSAPP: ["number"],
  CREDENTIALS_CONFLICT: ["number"],
  REQUEST_IN_PROGRESS: ["again"],
  PAIRING_TIMEOUT: ["again", "other"],
  PAIRING_CODE_FAILED: ["again", "other"],
  RATE_LIMITED: ["again", "other"],
  WHATSAPP_UNREACHABLE: ["again"],
  ENGINE_OUTDATED: ["again"],
  ALREADY_CONNECTED: ["dismiss"],
  CODE_EXPIRED: ["again", "other"],
  WRONG_PHONE_LINKED: ["reset", "again"],
  PASSKEY_REQUIRED: ["again", "other"],
  ACCOUNT_BANNED: ["again", "number"],
  INVALID_MESSAGE: ["reload"],
  UNKNOWN_EVENT: ["reload"],
  INTERNAL: ["again"],
};

/**
 * @param {Problem} problem
 * @param {{login: boolean, linking: boolean, may: string[], changing: boolean}} where
 * @returns {Remedy[]} at most two, the best first
 */
export const remedies = (problem, { login, linking, may, changing }) => {
  if (problem.code === "UNAUTHORIZED" || problem.code === "FORBIDDEN") {
    return login ? ["reload"] : [];
  }
  if (problem.code === "ALREADY_CONNECTED" && changing) return ["number", "dismiss"];
  const wanted = REMEDIES[problem.code] ?? ["again"];
  const possible = wanted.filter((remedy) => {
    if (remedy === "reset") return may.includes("reset");
    return linking || remedy === "reload" || remedy === "reconnect" || remedy === "dismiss";
  });
  return possible.length || !wanted.length ? possible.slice(0, 2) : ["dismiss"];
};

/** @param {string} code @param {number} [retryAfter] seconds */
export const retryAt = (code, retryAfter) => {
  if (retryAfter) return Date.now() + retryAfter * 1000;
  return NOT_AT_ONCE.includes(code) ? Date.now() + LEAST_MS : 0;
};
