// @ts-check
// Puts a state on the screen. It decides nothing about the link; it keeps focus and
// live regions quiet when nothing is new.

import { OF_NUMBER, remedies } from "./problems.js";
import { isLinked, isLinking, isWarned, openAttempt } from "./state.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./problems.js").Way} Way */

const STAGES = ["requested", "shown", "entered", "finishing", "linked"];

/** @type {Record<string, [icon: string, tone: string]>} */
const LOOKS = {
  unlinked: ["link", "plain"],
  pairing: ["wait", "busy"],
  connecting: ["wait", "busy"],
  open: ["ok", "good"],
  degraded: ["wait", "warn"],
  reconnecting: ["wait", "warn"],
  stopped: ["pause", "plain"],
  logged_out: ["off", "bad"],
  replaced: ["warning", "warn"],
  banned: ["warning", "bad"],
  outdated: ["wait", "warn"],
  needs_attention: ["warning", "bad"],
};

/** @param {number} ms */
export const clock = (ms) => {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
};

export class View {
  /**
   * @param {HTMLElement} root
   * @param {{may: string[], login: boolean, language: string,
   *   write: (digits: string) => string}} options
   */
  constructor(root, { may, login, language, write }) {
    this.root = root;
    this.may = may;
    this.login = login;
    this.language = language;
    this.write = write;
    this.homeless = false;
    /** @type {Record<string, string>} */
    this.words = {};
    for (const item of root.querySelectorAll("[data-word]")) {
      this.words[/** @type {HTMLElement} */ (item).dataset.word ?? ""] = item.textContent ?? "";
    }
  }

  /** @param {string} id @returns {any} */
  get(id) {
    return this.root.querySelector(`#${id}`);
  }

  /** @param {string} id @param {boolean} shown */
  show(id, shown) {
    this.get(id).toggleAttribute("hidden", !shown);
  }

  /** A live region speaks at every change, even into the same. @param {string} id @param {string} text */
  say(id, text) {
    const element = this.get(id);
    if (element.textContent !== text) element.textContent = text;
  }

  /** @param {string} name @param {Record<string, string>} values */
  word(name, values = {}) {
    return this.words[name].replace(/\{(\w+)\}/g, (_, key) => values[key] ?? "");
  }

  /** @param {State} state */
  render(state) {
    const focused = document.activeElement;
    this.#state(state);
    this.#steps(state);
    this.#linked(state);
    this.#link(state);
    this.#problem(state);
    this.tick(state);
    this.#settleFocus(focused);
  }

  /** The clocks, every second. @param {State} state */
  tick(state) {
    const now = Date.now();
    const { code, qr, problem } = state;
    const codeLeft = code ? code.until - now : 0;
    const qrLeft = qr && state.link === "up" ? qr.until - now : 0;
    this.show("code-shown", codeLeft > 0);
    this.show("what-next", codeLeft <= 0);
    this.get("get-code").classList.toggle("main", codeLeft <= 0);
    this.say("code", codeLeft > 0 ? code?.text ?? "" : "");
    this.say("code-phone", codeLeft > 0 ? this.write(code?.phone ?? "") : "");
    this.say("code-left", codeLeft > 0 ? this.word("left", { time: clock(codeLeft) }) : "");
    this.show("qr", qrLeft > 0);
    this.show("qr-left", qrLeft > 0);
    this.say("qr-left", qrLeft > 0 ? this.word("left", { time: clock(qrLeft) }) : "");
    this.#qr(state, qrLeft > 0);
    if (problem) this.#countdown(problem.until - now);
  }

  /**
   * Move the focus to the first of these that is there, unless somebody is elsewhere:
   * in another frame, or on another part of the page.
   *
   * @param {string[]} ids
   */
  focus(ids) {
    if (!document.hasFocus()) return false;
    const target = ids.map((id) => this.get(id)).find((one) => one.getClientRects().length > 0);
    if (!target) return false;
    if (!target.matches("input, button, [tabindex]")) target.tabIndex = -1;
    target.focus();
    return true;
  }

  /**
   * Where what had the focus is gone, it goes on to what has come instead, now or later.
   *
   * @param {Element | null} focused before the change
   */
  #settleFocus(focused) {
    const gone = focused !== document.body && this.root.contains(focused)
      && focused?.getClientRects().length === 0;
    this.homeless = gone || (this.homeless && document.activeElement === document.body);
    if (this.homeless && this.focus(["problem-text", "code-title", "linked-title", "link-title"])) {
      this.homeless = false;
    }
  }

  /** @param {State} state */
  #state(state) {
    const { status, link } = state;
    const wrong = status?.status === "open" && status.reason === "WRONG_PHONE_LINKED";
    const [icon, tone] = wrong ? ["warning", "warn"] : LOOKS[status?.status ?? ""] ?? ["wait", "busy"];
    this.show("state", link !== "over");
    this.show("lost", link === "lost");
    this.root.dataset.status = status?.status ?? "";
    this.get("state").dataset.tone = tone;
    this.get("status-icon").setAttribute("href", `#icon-${icon}`);
    this.say("status-name", this.word(`name-${status?.status ?? "waiting"}`));
    this.say("status", link === "over" ? "" : this.#sentence(state));
  }

  /** The server's words, except where they speak of what is not on the screen. @param {State} state */
  #sentence(state) {
    const { link, status, way, asking, news } = state;
    if (!status) return this.word("waiting");
    if (asking) return this.word(`asking-${asking}`);
    if (!this.may.includes("link")) return status.message;
    const attempt = openAttempt(state);
    // The QR is hidden then: see #qr.
    if (link === "lost" && way === "qr" && attempt?.kind === "qr") return this.word("waiting");
    const moving = attempt && (attempt.kind === way || !["requested", "shown"].includes(attempt.stage));
    if (status.status === "pairing" && !moving) return this.word(`idle-${way}`);
    if (news && !isWarned(state)) return news;
    return status.status === "unlinked" ? this.word(`idle-${way}`) : status.message;
  }

  /** @param {State} state */
  #steps(state) {
    const { status, way, asking } = state;
    const attempt = openAttempt(state);
    const linked = status?.attempt?.stage === "linked" && ["open", "degraded"].includes(status.status);
    const done = linked && !state.changing;
    let stage = "";
    if (attempt && (attempt.kind === way || ["entered", "finishing"].includes(attempt.stage))) {
      stage = attempt.stage;
    } else if (asking) stage = "requested";
    else if (done) stage = "linked";
    this.show("steps", Boolean(stage) && state.link !== "over" && this.may.includes("link"));
    this.show("done", done && !isWarned(state) && state.link !== "over" && this.may.includes("link"));
    this.get("steps").dataset.kind = attempt?.kind ?? status?.attempt?.kind ?? way;
    const at = STAGES.indexOf(stage);
    for (const step of this.get("steps").children) {
      const place = STAGES.indexOf(step.dataset.step);
      const now = place === at && stage !== "linked";
      step.dataset.state = now ? "now" : place <= at ? "done" : "next";
      if (now) step.setAttribute("aria-current", "step");
      else step.removeAttribute("aria-current");
    }
  }

  /** @param {State} state */
  #linked(state) {
    const { status, changing } = state;
    const shown = isLinked(state) && state.link !== "over" && !changing;
    this.show("linked", shown);
    if (!shown || !status) {
      if (status && !isLinked(state)) this.say("linked-phone", "");
    } else {
      this.say("linked-phone", `+${status.phone}`);
      this.say("linked-since", status.since ? this.word("since", { time: this.#moment(status.since) }) : "");
    }
    const can = {
      change: this.may.includes("link") && !isLinking(state, this.may),
      disconnect: this.may.includes("disconnect") && status?.status !== "stopped",
      reset: this.may.includes("reset"),
    };
    for (const [id, possible] of Object.entries(can)) {
      this.get(id).closest("li").toggleAttribute("hidden", !possible);
    }
    this.#action(state, shown);
  }

  /** @param {State} state @param {boolean} linked */
  #action(state, linked) {
    const action = state.status?.action ?? "";
    const reset = action === "reset-whatsapp-credentials";
    const right = reset ? this.may.includes("reset") : this.may.includes("link");
    // Where a phone can be linked, the buttons for that are the action.
    const shown = Boolean(action) && right && state.link !== "over" && !isLinking(state, this.may);
    const button = this.get("action");
    button.dataset.event = action;
    button.className = reset ? "danger" : "main";
    this.say("action", reset ? this.word("do-reset")
      : action === "request-qr" ? this.word(linked ? "resume" : "do-qr") : this.word("get-code"));
    this.show("action", shown);
  }

  /** @param {State} state */
  #link(state) {
    const { status, way, asking } = state;
    const attempt = openAttempt(state);
    this.show("link", isLinking(state, this.may));
    this.show("code-way", way === "code");
    this.show("qr-way", way === "qr");
    for (const name of ["code", "qr"]) {
      this.get(`by-${name}`).setAttribute("aria-pressed", String(way === name));
    }
    const other = Boolean(status?.phone) && (state.changing || status?.status === "pairing");
    this.show("old-link", other);
    this.say("old-link-text", other ? this.word("old-link", { phone: `+${status?.phone}` }) : "");
    const busy = asking || (attempt?.stage === "requested" ? attempt.kind : "");
    this.#busy("get-code", busy === "code");
    this.#busy("get-qr", busy === "qr");
  }

  /** A busy button stays where the focus is. @param {string} id @param {boolean} busy */
  #busy(id, busy) {
    const button = this.get(id);
    button.toggleAttribute("data-busy", busy);
    if (busy) button.setAttribute("aria-disabled", "true");
    else button.removeAttribute("aria-disabled");
  }

  /** @param {State} state @param {boolean} valid */
  #qr(state, valid) {
    const frame = this.get("qr");
    const svg = valid ? state.qr?.svg ?? "" : "";
    if (frame.dataset.svg !== svg.slice(-200)) {
      frame.innerHTML = svg;
      frame.dataset.svg = svg.slice(-200);
    }
    const cut = state.link === "lost" && state.qr !== null;
    const coming = !valid && (cut || state.asking === "qr" || openAttempt(state)?.kind === "qr");
    this.show("qr-frame", valid || coming);
    this.show("qr-wait", coming);
    this.say("qr-wait", coming ? this.word(cut ? "qr-cut" : "asking-qr") : "");
    this.show("get-qr", !valid && !coming);
  }

  /** @param {State} state */
  #problem(state) {
    const linking = isLinking(state, this.may);
    // What failed by code is told where codes are, and the other way round.
    const problem = linking && state.problem?.way !== state.way ? null : state.problem;
    this.show("problem", problem !== null);
    this.say("problem-text", problem?.message ?? "");
    const beside = problem && OF_NUMBER.includes(problem.code) && linking;
    const place = this.get(beside ? "phone-problem-place" : "problem-place");
    const box = this.get("problem");
    if (box.parentElement !== place) place.append(box);
    this.get("phone").setAttribute("aria-invalid", String(Boolean(beside)));
    const offered = problem ? remedies(problem, {
      login: this.login,
      linking,
      may: this.may,
      changing: state.changing,
    }) : [];
    ["problem-first", "problem-second"].forEach((id, at) => {
      const remedy = offered[at] ?? "";
      this.get(id).dataset.remedy = remedy;
      this.get(id).dataset.label = remedy && problem ? this.#label(remedy, problem.way) : "";
      this.say(id, this.get(id).dataset.label);
      this.get(id).classList.toggle("main", at === 0 && remedy === "again");
      this.show(id, Boolean(remedy));
    });
  }

  /** @param {string} remedy @param {Way} way */
  #label(remedy, way) {
    if (remedy === "again") return this.word(way === "code" ? "do-code" : "do-qr");
    if (remedy === "other") return this.word(way === "code" ? "do-use-qr" : "do-use-code");
    return this.word(`do-${remedy}`);
  }

  /** @param {number} left */
  #countdown(left) {
    const button = this.get("problem-first");
    const what = button.dataset.label ?? "";
    const waits = left > 0;
    this.say("problem-first", waits ? this.word("in-time", { what, time: clock(left) }) : what);
    button.disabled = waits;
  }

  /** @param {string} iso */
  #moment(iso) {
    const format = new Intl.DateTimeFormat(this.language, { dateStyle: "long", timeStyle: "short" });
    return format.format(new Date(iso));
  }
}
