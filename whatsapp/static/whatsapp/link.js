// @ts-check
// Starts the linking component of a page; on the marketplace's page also changes its
// language, without a reload: in a partner's frame that would lose who the partner is.

import { start } from "./link/component.js";

/** @typedef {import("./link/component.js").Kept} Kept */

const page = document.documentElement;

/** What the marketplace says in the page's fragment, and in the token there. */
const granted = () => {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token") ?? "";
  let phone = fragment.get("phone") ?? "";
  try {
    const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    phone ||= String(JSON.parse(atob(claims)).phone ?? "");
  } catch {
    // The server will say what is wrong with it.
  }
  return { token, phone: phone.replace(/\D/g, "") };
};

/** @type {ReturnType<typeof start> | null} */
let running = null;

/** @param {Kept | null} [kept] */
const begin = (kept = null) => {
  const root = document.getElementById("link-root");
  if (!root) return;
  running = start(root, { ...granted(), language: page.lang, kept });
  for (const link of document.querySelectorAll(".languages a")) {
    /** @type {HTMLElement} */ (link).onclick = (event) => {
      event.preventDefault();
      speak(link.getAttribute("hreflang") ?? "");
    };
  }
};

/** @param {URL} address @returns {Promise<Document | null>} */
const read = async (address) => {
  try {
    const response = await fetch(address.pathname + address.search);
    if (!response.ok) return null;
    return new DOMParser().parseFromString(await response.text(), "text/html");
  } catch {
    return null; // cut off: the page goes on in the language that it has
  }
};

/** @param {string} language */
const speak = async (language) => {
  const address = new URL(location.href);
  address.searchParams.set("lang", language);
  const translated = await read(address);
  if (!translated) return;
  const focused = document.activeElement?.closest(".languages") !== null;
  const kept = running?.stop() ?? null;
  page.lang = language;
  document.title = translated.title;
  document.body.replaceChildren(...translated.body.childNodes);
  history.replaceState(null, "", address);
  begin(kept);
  const present = /** @type {HTMLElement | null} */ (
    document.querySelector(".languages [aria-current]"));
  if (kept && focused) present?.focus();
};

if (page.dataset.wish) await speak(page.dataset.wish);
delete page.dataset.wish;
if (!running) begin();
// The marketplace may hand a fresh token to a page that is open.
if (document.getElementById("link-root")?.dataset.auth === "token") {
  addEventListener("hashchange", () => begin(running?.stop() ?? null));
}
