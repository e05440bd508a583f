// @ts-check
// The marketplace page: shows what its WebSocket says, sends what the person wants.
// It keeps no state of its own beyond what is on the screen: after a reconnect the
// server says again where things stand.
"use strict";

(() => {
  /** @param {string} id @returns {any} */
  const get = (id) => document.getElementById(id);
  const texts = get("page").dataset;
  const language = document.documentElement.lang;

  const RETRY_FIRST_MS = 500;
  const RETRY_MAX_MS = 30_000;
  const TOO_MANY_MS = 60_000;
  const ANSWER_MS = 25_000;
  const SIGN_OF_LIFE_MS = 5_000;
  const LINKED = ["connecting", "open", "degraded", "reconnecting", "stopped", "replaced",
    "banned", "outdated", "needs_attention"];
  const UNLINKED = ["unlinked", "pairing", "logged_out", "needs_attention"];

  /** @type {WebSocket | null} */
  let socket = null;
  let failures = 0;
  let over = false;
  let retryTimer = 0;
  let answerTimer = 0;
  let lifeTimer = 0;
  let attemptKind = "";
  let linked = false;
  /** @type {Record<string, number>} */
  const ends = { code: 0, qr: 0 };

  /** @param {Element} element @param {boolean} shown */
  const show = (element, shown) => element.toggleAttribute("hidden", !shown);

  /** @param {number} seconds */
  const clock = (seconds) =>
    `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

  // --- the socket ---------------------------------------------------------------------

  const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";

  /** The marketplace may say in the token which language the salon speaks. */
  const grantedLanguage = () => {
    try {
      const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
      const wish = JSON.parse(atob(claims)).language;
      return ["ru", "en"].includes(wish) ? wish : "";
    } catch {
      return ""; // the server will say what is wrong with it
    }
  };

  const connect = () => {
    clearTimeout(retryTimer);
    if (over || (socket && socket.readyState <= WebSocket.OPEN)) return;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const address = `${scheme}//${location.host}${texts.socket}?lang=${language}`;
    const current = new WebSocket(address, ["aiadmin.v1", `bearer.${token}`]);
    socket = current;
    current.onmessage = (message) => {
      clearTimeout(lifeTimer);
      const { event, data } = JSON.parse(message.data);
      handlers[event]?.(data ?? {});
    };
    current.onclose = (closed) => {
      if (socket !== current) return;
      socket = null;
      answered();
      if (closed.code === 4401 || closed.code === 4403) {
        finish();
        return;
      }
      show(get("lost"), true);
      failures += 1;
      const delay = Math.min(RETRY_FIRST_MS * 2 ** Math.min(failures, 10), RETRY_MAX_MS);
      const least = closed.code === 4429 ? TOO_MANY_MS : 0;
      retryTimer = setTimeout(connect, least + delay * (0.5 + Math.random() / 2));
    };
  };

  /** @param {string} event @param {object} [data] */
  const send = (event, data) => {
    if (socket?.readyState !== WebSocket.OPEN) {
      connect();
      return false;
    }
    socket.send(JSON.stringify({ event, data: data ?? {} }));
    return true;
  };

  // A phone that comes back from WhatsApp may hold a socket that died unnoticed.
  const wake = () => {
    if (document.hidden || over) return;
    if (!send("get-status")) return;
    clearTimeout(lifeTimer);
    const current = socket;
    lifeTimer = setTimeout(() => {
      if (socket !== current || !current) return;
      socket = null;
      current.close();
      connect();
    }, SIGN_OF_LIFE_MS);
  };

  const finish = () => {
    over = true;
    get("status").textContent = ""; // what it said may no longer be true
    for (const id of ["lost", "link", "linked", "action"]) show(get(id), false);
  };

  // --- what the server says -----------------------------------------------------------

  /** @type {Record<string, (data: any) => void>} */
  const handlers = {
    status(data) {
      failures = 0;
      show(get("lost"), false);
      get("status").textContent = data.message;
      document.body.dataset.status = data.status;
      linked = Boolean(data.phone) && LINKED.includes(data.status);
      show(get("linked"), linked);
      get("linked-phone").textContent = data.phone ?? "";
      get("linked-since").textContent = data.status === "open" && data.since
        ? texts.since.replace("{time}", new Date(data.since).toLocaleString(language))
        : "";
      show(get("disconnect"), data.status !== "stopped");
      showAttempt(data);
      showAction(data);
    },
    "qr-update"(data) {
      answered();
      problem("");
      get("qr").innerHTML = data.svg;
      ends.qr = Date.now() + data.expiresIn * 1000;
      tick();
    },
    "pairing-code"(data) {
      answered();
      problem("");
      get("code").textContent = data.code;
      get("copy").textContent = texts.copy;
      get("phone").value ||= `+${data.phoneNumber}`; // after a reload, or from another page
      ends.code = Date.now() + data.expiresIn * 1000;
      choose("code");
      tick();
    },
    "pairing-code-error"(data) {
      answered();
      ends.code = 0;
      problem(data.message, data.retryAfter);
      tick();
    },
    "whatsapp-connected"(data) {
      answered();
      problem("");
      get("status").textContent = data.message;
      ends.code = ends.qr = 0;
      tick();
    },
    "credentials-reset"(data) {
      answered();
      problem("");
      get("status").textContent = data.message;
      ends.code = ends.qr = 0;
      tick();
    },
    "reset-error"(data) {
      problem(data.message);
    },
    error(data) {
      answered();
      problem(data.message, data.retryAfter);
      if (attemptKind === "qr") ends.qr = 0;
      tick();
    },
  };

  /** @param {any} data */
  const showAttempt = (data) => {
    const attempt = data.status === "pairing" ? data.attempt : null;
    const kind = attempt?.kind ?? "";
    if (kind === "code" && attemptKind !== "code") choose("code");
    attemptKind = kind;
    const live = attempt && (attempt.stage === "shown" || attempt.stage === "entered");
    if (!live || kind !== "code") ends.code = 0;
    if (!live || kind !== "qr") ends.qr = 0;
    const busy = attempt?.stage === "finishing";
    show(get("link"), UNLINKED.includes(data.status) && !busy);
    tick();
  };

  /** @param {any} data */
  const showAction = (data) => {
    const button = get("action");
    // Where the link section is shown, its own buttons are the action.
    const shown = Boolean(data.action) && get("link").hidden;
    button.dataset.event = data.action ?? "";
    button.textContent = !shown ? ""
      : data.action === "request-qr" && linked ? texts.resume
      : texts[data.action.replace(/-(.)/g, (/** @type {string} */ _, /** @type {string} */ letter) => letter.toUpperCase())];
    show(button, shown);
  };

  /** @param {string} sentence @param {number} [retryAfter] */
  const problem = (sentence, retryAfter) => {
    const again = retryAfter ? ` ${texts.again.replace("{time}", clock(retryAfter))}` : "";
    get("problem").textContent = sentence + again;
    show(get("problem"), Boolean(sentence));
  };

  const tick = () => {
    for (const way of ["code", "qr"]) {
      const left = Math.ceil((ends[way] - Date.now()) / 1000);
      const valid = left > 0;
      get(`${way}-left`).textContent = valid ? texts.left.replace("{time}", clock(left)) : "";
      if (way === "code") {
        show(get("code-shown"), valid);
        if (!valid) get("code").textContent = "";
      } else {
        show(get("qr"), valid);
        show(get("qr-left"), valid);
        if (!valid) get("qr").replaceChildren();
        // A QR is followed by the next one; the button is for when none comes.
        show(get("get-qr"), !valid && attemptKind !== "qr");
      }
    }
  };

  // --- what the person wants ----------------------------------------------------------

  /** @param {"code" | "qr"} way */
  const choose = (way) => {
    show(get("code-way"), way === "code");
    show(get("qr-way"), way === "qr");
    get("by-code").setAttribute("aria-pressed", String(way === "code"));
    get("by-qr").setAttribute("aria-pressed", String(way === "qr"));
  };

  const waiting = () => {
    problem("");
    get("get-code").disabled = true;
    get("get-qr").disabled = true;
    clearTimeout(answerTimer);
    answerTimer = setTimeout(() => {
      answered();
      problem(texts.noAnswer);
      connect();
    }, ANSWER_MS);
  };

  const answered = () => {
    clearTimeout(answerTimer);
    get("get-code").disabled = false;
    get("get-qr").disabled = false;
  };

  const requestQr = () => {
    choose("qr");
    if (send("request-qr")) waiting();
  };

  const askReset = () => {
    const dialog = get("reset-dialog");
    dialog.returnValue = "";
    dialog.showModal();
  };

  get("by-code").onclick = () => {
    choose("code");
    get("phone").focus();
  };
  get("by-qr").onclick = () => {
    if (attemptKind === "qr") choose("qr");
    else requestQr();
  };
  get("get-qr").onclick = requestQr;
  get("code-form").onsubmit = (/** @type {Event} */ event) => {
    event.preventDefault();
    if (send("request-pairing-code", { phoneNumber: get("phone").value })) waiting();
  };
  get("copy").onclick = async () => {
    try {
      await navigator.clipboard.writeText(get("code").textContent);
      get("copy").textContent = texts.copied;
    } catch {
      getSelection()?.selectAllChildren(get("code")); // no right to the clipboard
    }
  };
  get("action").onclick = () => {
    const event = get("action").dataset.event;
    if (event === "reset-whatsapp-credentials") askReset();
    else if (event === "request-qr") requestQr();
    else {
      show(get("link"), true);
      choose("code");
      get("phone").focus();
    }
  };
  get("disconnect").onclick = () => send("disconnect-whatsapp");
  get("reset").onclick = askReset;
  get("reset-dialog").onclose = () => {
    if (get("reset-dialog").returnValue === "reset") send("reset-whatsapp-credentials");
  };

  // --- start --------------------------------------------------------------------------

  const granted = grantedLanguage();
  if (granted && granted !== language && !new URLSearchParams(location.search).has("lang")) {
    location.replace(`?lang=${granted}${location.hash}`);
    return;
  }
  // On a phone the QR would have to be scanned by the very phone that shows it.
  choose(matchMedia("(max-width: 40rem), (pointer: coarse)").matches ? "code" : "qr");
  addEventListener("online", connect);
  document.addEventListener("visibilitychange", wake);
  addEventListener("hashchange", () => location.reload());
  setInterval(tick, 1000);
  if (token) connect();
  else {
    problem(texts.noToken);
    finish();
  }
})();
