// @ts-check
// The linking component: what the server says becomes a state, the state is shown, what
// the person wants is sent. After a reconnect the server says again where things stand.

import { stayAwake } from "./awake.js";
import { offerCopy, offerSystems } from "./help.js";
import { PhoneField } from "./phone-field.js";
import { FLOOD, LOCAL_NUMBER, NO_ANSWER, OF_NUMBER, retryAt } from "./problems.js";
import { Connection, TOO_MANY } from "./socket.js";
import { isLinked, isLinking, openAttempt } from "./state.js";
import { View } from "./view.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./state.js").Status} Status */
/** @typedef {import("./problems.js").Way} Way */

/**
 * What a person has done that the server does not know: it survives a change of language.
 * @typedef {{phone: string, country: string, way: Way | "", system: string}} Kept
 */

const ANSWER_MS = 25_000;
const GRACE_MS = 5_000; // on top of the server's own deadline
const LIVE = ["shown", "entered"];

/** On a phone the QR would have to be scanned by the very phone that shows it. */
const isPhone = () =>
  Math.min(screen.width, screen.height) < 600 || matchMedia("(pointer: coarse)").matches;

/**
 * @param {HTMLElement} root
 * @param {{token: string, phone: string, language: string, kept: Kept | null}} given
 * @returns {{stop: () => Kept}}
 */
export const start = (root, { token, phone, language, kept }) => {
  const { dataset } = root;
  const login = dataset.auth === "login";
  const inAdmin = dataset.embedded === "admin";
  const may = (dataset.may ?? "").split(" ").filter(Boolean);
  const leaving = new AbortController();
  const { signal } = leaving;

  /** @param {string} id @returns {any} */
  const get = (id) => root.querySelector(`#${id}`);
  /** @param {string} id @param {() => void} action */
  const onClick = (id, action) => get(id).addEventListener("click", action, { signal });

  /** @type {State} */
  const state = {
    link: "waiting", status: null, news: "", way: kept?.way || (isPhone() ? "code" : "qr"),
    asking: "", code: null, qr: null, problem: null, changing: false,
  };
  /** @type {{event: string, data: object} | null} */
  let wish = null; // what could not be sent yet
  let last = ""; // what was asked for, to ask again
  let resume = false; // a stop that is only the way back to the old number
  let typing = false; // since the last request
  let answerTimer = 0;

  const field = new PhoneField(get("phone"), get("country"), {
    language,
    signal,
    changed: () => {
      typing = true;
      if (state.problem && OF_NUMBER.includes(state.problem.code)) state.problem = null;
      judge(false);
      render();
    },
    settled: () => judge(false),
  });
  const view = new View(root, { may, login, language, write: (digits) => field.write(digits) });
  const render = () => view.render(state);

  // --- the number ---------------------------------------------------------------------

  /** @returns {boolean} whether the number may be sent */
  const judge = (asked = true) => {
    const { trouble, doubt } = field.read();
    const words = { example: field.example(), country: field.countryName() };
    view.say("phone-note", doubt ? view.word("phone-doubt", words) : "");
    if (!trouble || !asked) return !trouble;
    const message = view.word(`phone-${trouble}`, words);
    state.problem = { code: LOCAL_NUMBER, message, way: "code", until: 0 };
    render();
    get("phone").focus();
    return false;
  };

  // --- asking -------------------------------------------------------------------------

  /** @param {string} event @param {object} [data] */
  const send = (event, data = {}) => {
    if (!connection.send(event, data)) wish = { event, data };
  };

  /** @param {Way} way @param {number} [ms] */
  const expectAnswer = (way, ms = ANSWER_MS) => {
    state.asking = way;
    clearTimeout(answerTimer);
    answerTimer = setTimeout(() => {
      state.asking = "";
      wish = null;
      state.problem = { code: NO_ANSWER, message: view.word("no-answer"), way, until: 0 };
      connection.check();
      render();
    }, ms);
  };

  const answered = () => {
    clearTimeout(answerTimer);
    state.asking = "";
  };

  /** What failed on the other way is still true there. @param {Way} way */
  const forget = (way) => {
    if (state.problem?.way === way) state.problem = null;
    state.news = "";
  };

  const askCode = () => {
    if (state.asking || !judge()) return;
    typing = false;
    last = "code";
    forget("code");
    expectAnswer("code");
    send("request-pairing-code", { phoneNumber: field.read().send });
    render();
  };

  const askQr = () => {
    if (state.asking === "qr") return;
    last = "qr";
    state.way = "qr";
    forget("qr");
    if (openAttempt(state)?.kind !== "qr") expectAnswer("qr");
    // Of a linked salon it would mean: connect again.
    send("request-qr", state.changing ? { fresh: true } : {});
    render();
  };

  const askReset = () => {
    const dialog = get("reset-dialog");
    dialog.returnValue = "";
    dialog.showModal();
  };

  /** @param {Way} way */
  const choose = (way) => {
    state.way = way;
    render();
  };

  const changeNumber = () => {
    if (!isLinking(state, may)) state.changing = true;
    state.way = "code";
    render();
    get("phone").focus();
    get("phone").select();
  };

  // --- what the server says -----------------------------------------------------------

  /** @param {string} code @param {any} data @param {Way} way */
  const fail = (code, data, way) => {
    answered();
    const over = code === "CODE_EXPIRED" && way === "qr";
    const message = over ? view.word("qr-over") : data.message;
    state.problem = { code, message, way, until: retryAt(code, data.retryAfter) };
    render();
    const typed = typing && document.activeElement === get("phone");
    if (!typed) view.focus(OF_NUMBER.includes(code) ? ["phone"] : ["problem-text"]);
  };

  /** @type {Record<string, (data: any) => void>} */
  const handlers = {
    /** @param {Status} data */
    status(data) {
      const before = state.status;
      const attemptBefore = openAttempt(state);
      state.link = "up";
      state.status = data;
      if (before?.status !== data.status) state.news = "";
      const attempt = openAttempt(state);
      const live = attempt && LIVE.includes(attempt.stage) ? attempt.kind : "";
      if (live !== "code") state.code = null;
      if (live !== "qr") state.qr = null;
      if (live === "code" && state.code && attempt) {
        state.code.until = Date.now() + attempt.expiresIn * 1000;
      }
      if (attempt?.kind === "code" && attemptBefore?.kind !== "code") state.way = "code";
      if (attempt && attempt.kind === state.asking && attempt.stage === "requested") {
        expectAnswer(attempt.kind, attempt.expiresIn * 1000 + GRACE_MS);
      } else if (live === state.asking || attempt?.stage === "finishing") answered();
      if (data.attempt?.stage === "linked" && data.status === "open") {
        if (before?.attempt?.stage !== "linked") state.changing = false;
        if (state.problem?.way === data.attempt.kind) state.problem = null;
      }
      if (state.problem?.code === FLOOD) state.problem = null;
      if (!isLinked(state) && !attempt) state.changing = false;
      render();
      afterStatus(data);
    },
    "qr-update"(data) {
      if (state.asking === "qr") answered();
      forget("qr");
      state.qr = { svg: data.svg, until: Date.now() + data.expiresIn * 1000 };
      render();
    },
    "pairing-code"(data) {
      answered();
      const fresh = state.code?.text !== data.code;
      state.problem = null;
      state.way = "code";
      state.code = {
        text: data.code, phone: data.phoneNumber, until: Date.now() + data.expiresIn * 1000,
      };
      field.offer(data.phoneNumber); // after a reload, or asked for by another page
      view.say("copy", view.word("copy"));
      render();
      if (fresh && !(typing && document.activeElement === get("phone"))) view.focus(["code-title"]);
    },
    "pairing-code-error"(data) {
      if (state.asking !== "qr") state.way = "code";
      fail(data.code, data, "code");
    },
    "whatsapp-connected"(data) {
      answered();
      state.problem = null;
      state.news = data.message;
      render();
    },
    "credentials-reset"(data) {
      answered();
      state.problem = null;
      state.changing = false;
      state.news = data.message;
      render();
    },
    "reset-error"(data) {
      fail(data.code, data, state.way);
    },
    error(data) {
      const kind = state.asking || state.status?.attempt?.kind;
      fail(data.code, data, kind === "qr" || kind === "code" ? kind : state.way);
    },
    "known-phone"(data) {
      field.offer(String(data.phoneNumber ?? ""));
    },
  };

  /** What had to wait for the connection, or for the session to stop. @param {Status} data */
  const afterStatus = (data) => {
    if (wish) {
      const { event, data: wished } = wish;
      wish = null;
      send(event, wished);
    }
    if (resume && data.status === "stopped") {
      resume = false;
      send("request-qr");
    }
  };

  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const connection = new Connection(
    `${scheme}//${location.host}${dataset.socket}?lang=${language}`,
    login ? ["aiadmin.v1"] : ["aiadmin.v1", `bearer.${token}`],
    {
      said: (event, data) => handlers[event]?.(data),
      lost: (code, retryMs) => {
        state.link = "lost";
        if (code === TOO_MANY && state.problem) {
          state.problem = { ...state.problem, code: FLOOD, until: Date.now() + retryMs };
        }
        render();
      },
      over: () => {
        state.link = "over";
        state.code = state.qr = null;
        answered();
        // The server's sentence is in the problem already, if there was one.
        const said = ["UNAUTHORIZED", "FORBIDDEN"].includes(state.problem?.code ?? "");
        const message = login ? view.word("login-over")
          : (said && state.problem?.message) || view.word("token-over");
        state.problem = { code: "UNAUTHORIZED", message, way: state.way, until: 0 };
        render();
        view.focus(["problem-text"]);
      },
    },
  );

  // --- what the person wants ----------------------------------------------------------

  get("code-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    askCode();
  }, { signal });
  onClick("by-code", () => {
    choose("code");
    if (!state.code) get("phone").focus();
  });
  onClick("by-qr", () => {
    if (inAdmin || openAttempt(state)?.kind === "qr") choose("qr");
    else askQr();
  });
  onClick("get-qr", askQr);
  onClick("change", changeNumber);
  onClick("keep", () => {
    const running = openAttempt(state) !== null;
    state.changing = false;
    state.problem = null;
    if (running) {
      // There is no word for "leave it": stopping ends the attempt, a QR wish resumes.
      resume = true;
      send("disconnect-whatsapp");
    }
    render();
  });
  onClick("action", () => {
    const { event } = get("action").dataset;
    if (event === "reset-whatsapp-credentials") askReset();
    else if (event === "request-qr") {
      last = "qr";
      send("request-qr");
    } else changeNumber();
  });
  onClick("disconnect", () => {
    last = "disconnect";
    send("disconnect-whatsapp");
  });
  onClick("reset", askReset);
  get("reset-dialog").addEventListener("close", () => {
    if (get("reset-dialog").returnValue !== "reset") return;
    last = "reset";
    send("reset-whatsapp-credentials");
  }, { signal });

  /** @type {Record<string, () => void>} */
  const remedy = {
    again: () => {
      if (last === "reset") askReset();
      else if (last === "disconnect") send("disconnect-whatsapp");
      else if (state.problem?.way === "qr") askQr();
      else askCode();
    },
    other: () => {
      if (state.problem?.way === "code") askQr();
      else choose("code");
    },
    number: changeNumber,
    reset: askReset,
    reload: () => location.reload(),
    reconnect: () => connection.connect(),
    dismiss: () => {
      state.problem = null;
      render();
    },
  };
  for (const id of ["problem-first", "problem-second"]) {
    onClick(id, () => remedy[get(id).dataset.remedy]?.());
  }

  offerCopy(view, signal);
  offerSystems(root, kept?.system ?? "", signal);
  stayAwake(state, connection, {
    tick: () => view.tick(state),
    codeEnded: () => fail("CODE_EXPIRED", { message: view.word("code-over") }, "code"),
  }, signal);

  // --- start --------------------------------------------------------------------------

  if (kept?.phone) get("phone").value = kept.phone;
  field.offer(phone || dataset.phone || "");
  fetch(dataset.regions ?? "", { signal })
    .then((response) => response.json())
    .then((table) => {
      field.learn(table, kept?.country ?? "");
      // It had its place before: a button that moves away under a finger is missed.
      /** @type {HTMLSelectElement} */ (get("country")).disabled = false;
      typing = false;
      render();
    })
    .catch(() => view.show("country-field", false)); // the server judges without it
  if (login || token) connection.connect();
  else {
    state.link = "over";
    state.problem = { code: "UNAUTHORIZED", message: view.word("no-token"), way: "code", until: 0 };
  }
  render();

  return {
    stop: () => {
      leaving.abort();
      clearTimeout(answerTimer);
      connection.end();
      return {
        phone: field.isTouched ? get("phone").value : "",
        country: field.country,
        way: state.way,
        system: dataset.system ?? "",
      };
    },
  };
};
