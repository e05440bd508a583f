// @ts-check
// Keeps the states of salons on a page of the admin true while it is open: one socket
// for all of them, and one timer. The page is complete without it, as of its loading.
//
// An element [data-status-socket] holds the socket's path. [data-salon] says whose the
// [data-live] on it or in it is: status, phone, owner, message, since, alive.
"use strict";

(() => {
  /**
   * @typedef {object} Row
   * @property {number} salon
   * @property {string} status
   * @property {string} label
   * @property {string | null} phone
   * @property {string} since
   * @property {string | null} lastAliveAt
   * @property {string | null} owner
   * @property {string} message
   */

  const RETRY_FIRST_MS = 500;
  const RETRY_MAX_MS = 30_000;
  const TOO_MANY_MS = 60_000;
  const GRACE_MS = 2_000; // a short break is not worth a word
  const ANSWER_MS = 15_000;
  const TICK_MS = 10_000;
  const HEARTBEAT_TICKS = 6;
  const MOST_SALONS = 500;
  const TOO_MANY = 4429;
  const NO_LOGIN = 4401;
  const NO_RIGHT = 4403;
  const NOTHING = "–";

  const language = document.documentElement.lang || "ru";
  const russian = language.startsWith("ru");
  // The page may say it in its own words, by attributes of the same names on the root.
  const WORDS = russian
    ? {
        textLost: "Нет связи: показано не всё новое. Восстанавливаем…",
        textNoLogin: "Вы больше не вошли. Обновите страницу и войдите.",
        textNoRight: "Прав на это больше нет. Обновите страницу.",
        textReload: "Обновить",
      }
    : {
        textLost: "Not live: reconnecting…",
        textNoLogin: "You are no longer logged in. Reload the page and log in.",
        textNoRight: "You may no longer see this. Reload the page.",
        textReload: "Reload",
      };

  // --- time in words --------------------------------------------------------------------

  const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
  const absolute = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" });
  /** @type {[Intl.RelativeTimeFormatUnit, number][]} */
  const UNITS = [["year", 31_536_000], ["month", 2_592_000], ["day", 86_400], ["hour", 3_600], ["minute", 60]];

  /** @param {number} moment */
  const ago = (moment) => {
    // A clock of ours that is behind the server's must not show the future.
    const seconds = Math.max(0, Math.round((Date.now() - moment) / 1000));
    for (const [unit, length] of UNITS) {
      if (seconds >= length) return relative.format(-Math.floor(seconds / length), unit);
    }
    return relative.format(seconds < 10 ? 0 : -Math.floor(seconds / 10) * 10, "second");
  };

  /** @param {Element} element @param {string} text */
  const write = (element, text) => {
    if (element.textContent !== text) element.textContent = text;
  };

  /** @param {HTMLTimeElement} time */
  const sayTime = (time) => {
    const moment = Date.parse(time.dateTime);
    if (Number.isNaN(moment)) return;
    write(time, ago(moment));
    const title = absolute.format(moment);
    if (time.title !== title) time.title = title;
  };

  /** @param {HTMLElement} holder @param {string | null} iso */
  const setTime = (holder, iso) => {
    let time = holder instanceof HTMLTimeElement ? holder : holder.querySelector("time");
    if (!time) {
      time = document.createElement("time");
      holder.replaceChildren(time);
    }
    if (iso) {
      time.dateTime = iso;
      sayTime(time);
    } else {
      time.removeAttribute("datetime");
      time.removeAttribute("title");
      write(time, NOTHING);
    }
  };

  // --- the page -------------------------------------------------------------------------

  /** @param {HTMLElement} root */
  const start = (root) => {
    /** @type {WebSocket | null} */
    let socket = null;
    let failures = 0;
    let over = false;
    let leaving = false;
    let ticks = 0;
    let hiddenAt = 0;
    let retryTimer = 0;
    let lostTimer = 0;
    let answerTimer = 0;

    /** @param {keyof typeof WORDS} name */
    const words = (name) => root.dataset[name] ?? WORDS[name];

    const salons = () => {
      const holders = [.../** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-salon]"))];
      const ids = holders.map((holder) => Number(holder.dataset.salon));
      return [...new Set(ids.filter((id) => Number.isSafeInteger(id) && id > 0))].slice(0, MOST_SALONS);
    };

    /** @param {Element} element */
    const salonOf = (element) => {
      const holder = /** @type {HTMLElement | null} */ (element.closest("[data-salon]"));
      return Number(holder?.dataset.salon);
    };

    /** @returns {HTMLElement[]} */
    const live = () => [...document.querySelectorAll("[data-live]")].map((element) => /** @type {HTMLElement} */ (element));

    // --- what the page shows ------------------------------------------------------------

    /** @param {HTMLElement} element @param {Row} row */
    const show = (element, row) => {
      switch (element.dataset.live) {
        case "status":
          write(element, row.label);
          element.dataset.status = row.status;
          element.title = row.message;
          break;
        case "phone":
          write(element, row.phone ?? NOTHING);
          break;
        case "owner":
          write(element, row.owner ?? NOTHING);
          break;
        case "message":
          write(element, row.message);
          break;
        case "since":
          setTime(element, row.since);
          break;
        case "alive":
          setTime(element, row.lastAliveAt);
          break;
      }
    };

    /** @param {Row[]} rows */
    const update = (rows) => {
      const news = new Map(rows.map((row) => [row.salon, row]));
      for (const element of live()) {
        const row = news.get(salonOf(element));
        if (row) show(element, row);
      }
      showProgress();
      announce(news);
    };

    const showProgress = () => {
      /** @param {string | undefined} target */
      const count = (target) => {
        const done = new Set();
        const all = new Set();
        for (const cell of document.querySelectorAll("[data-progress-rows] [data-live=status]")) {
          all.add(salonOf(cell));
          if (/** @type {HTMLElement} */ (cell).dataset.status === target) done.add(salonOf(cell));
        }
        return { done: done.size, total: all.size };
      };
      let target = "open";
      for (const bar of document.querySelectorAll("progress[data-live-progress]")) {
        const progress = /** @type {HTMLProgressElement} */ (bar);
        target = progress.dataset.target || target;
        const { done, total } = count(target);
        if (total > 0) progress.max = total;
        progress.value = done;
      }
      for (const element of document.querySelectorAll("[data-live-progress-count]")) {
        write(element, String(count(/** @type {HTMLElement} */ (element).dataset.target || target).done));
      }
      for (const element of document.querySelectorAll("[data-progress-text]")) {
        const { template, target: own } = /** @type {HTMLElement} */ (element).dataset;
        const { done, total } = count(own || target);
        const text = (template ?? "{done} / {total}")
          .replace("{done}", String(done)).replace("{total}", String(total));
        write(element, text); // only a change is read out
      }
    };

    /** The linking component says by itself how its salon fares; a list would never stop. */
    const speaks = document.body.classList.contains("change-form") && !document.querySelector(".whatsapp-link");
    /** @type {HTMLElement | null} */
    let voice = null;
    let said = "";

    /** @param {Map<number, Row>} news */
    const announce = (news) => {
      const [salon] = salons();
      const row = news.get(salon);
      if (!speaks || !row) return;
      const sentence = row.message || row.label;
      if (!said) said = sentence; // as the page has it from its loading
      if (sentence === said) return;
      said = sentence;
      if (voice) voice.textContent = sentence;
    };

    const sayTimes = () => {
      for (const time of root.querySelectorAll("time[datetime]")) sayTime(/** @type {HTMLTimeElement} */ (time));
      for (const time of document.querySelectorAll("time[data-live][datetime], [data-live] time[datetime]")) {
        sayTime(/** @type {HTMLTimeElement} */ (time));
      }
    };

    // --- the word that it is not live ---------------------------------------------------

    /** @type {HTMLElement | null} */
    let marker = document.querySelector("[data-live-lost]");
    const given = marker?.textContent?.trim() ?? "";

    const mark = () => {
      if (!marker) {
        marker = document.createElement("p");
        marker.dataset.liveLost = "";
        marker.className = "live-lost";
        marker.setAttribute("role", "status");
        marker.hidden = true;
        root.append(marker);
      }
      return marker;
    };

    const sayLost = () => {
      if (leaving || over) return;
      root.dataset.liveState = "lost";
      const element = mark();
      element.textContent = given || words("textLost");
      element.hidden = false;
    };

    const sayLive = () => {
      clearTimeout(lostTimer);
      lostTimer = 0;
      root.dataset.liveState = "live";
      if (marker) marker.hidden = true;
    };

    /** @param {number} code */
    const finish = (code) => {
      over = true;
      clearTimeout(lostTimer);
      clearInterval(timer);
      root.dataset.liveState = "over";
      const element = mark();
      const reload = document.createElement("button");
      reload.type = "button";
      reload.textContent = words("textReload");
      reload.onclick = () => location.reload();
      element.replaceChildren(`${words(code === NO_LOGIN ? "textNoLogin" : "textNoRight")} `, reload);
      element.hidden = false;
    };

    // --- the socket ---------------------------------------------------------------------

    const address = () => {
      const url = new URL(root.dataset.statusSocket || "/ws/admin/status/", location.href);
      url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
      url.searchParams.set("lang", language.slice(0, 2));
      return url.href;
    };

    const connect = () => {
      clearTimeout(retryTimer);
      if (over || leaving || (socket && socket.readyState <= WebSocket.OPEN)) return;
      const current = new WebSocket(address(), ["aiadmin.v1"]);
      socket = current;
      expectAnswer();
      current.onopen = () => {
        if (socket === current) watch();
      };
      current.onmessage = (message) => {
        if (socket !== current) return;
        const { event, data } = JSON.parse(message.data);
        if (event !== "salon-statuses") return;
        clearTimeout(answerTimer);
        failures = 0;
        sayLive();
        update(data.salons);
      };
      current.onclose = (closed) => {
        if (socket === current) lose(closed.code);
      };
    };

    /** Ask for all of them; the answer is also the sign that the socket still lives. */
    const watch = () => {
      if (socket?.readyState !== WebSocket.OPEN) {
        connect();
        return;
      }
      socket.send(JSON.stringify({ event: "watch", data: { salons: salons() } }));
      expectAnswer();
    };

    const expectAnswer = () => {
      clearTimeout(answerTimer);
      answerTimer = setTimeout(() => lose(1006), ANSWER_MS);
    };

    /** @param {number} code */
    const lose = (code) => {
      clearTimeout(answerTimer);
      const dead = socket;
      socket = null;
      dead?.close();
      if (over || leaving) return;
      if (code === NO_LOGIN || code === NO_RIGHT) {
        finish(code);
        return;
      }
      lostTimer ||= setTimeout(sayLost, GRACE_MS);
      failures += 1;
      const backoff = Math.min(RETRY_FIRST_MS * 2 ** Math.min(failures - 1, 10), RETRY_MAX_MS);
      const least = code === TOO_MANY ? TOO_MANY_MS : 0;
      retryTimer = setTimeout(connect, least + backoff * (0.5 + Math.random() / 2));
    };

    // --- start --------------------------------------------------------------------------

    if (speaks) {
      voice = document.createElement("p");
      voice.className = "live-voice";
      voice.setAttribute("role", "status");
      root.append(voice);
    }
    const timer = setInterval(() => {
      sayTimes();
      ticks += 1;
      // A network that went away without a word is noticed by asking.
      if (ticks % HEARTBEAT_TICKS === 0 && !document.hidden && socket?.readyState === WebSocket.OPEN) watch();
    }, TICK_MS);
    sayTimes();
    showProgress();
    if (salons().length === 0) return;
    addEventListener("online", connect);
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) {
        hiddenAt = Date.now();
        return;
      }
      sayTimes();
      if (Date.now() - hiddenAt > TICK_MS) watch();
      else connect();
    });
    addEventListener("pagehide", () => {
      leaving = true;
      clearTimeout(lostTimer);
      lostTimer = 0;
      lose(1001);
    });
    addEventListener("pageshow", () => {
      if (!leaving) return; // back from the browser's memory
      leaving = false;
      connect();
    });
    connect();
  };

  const begin = () => {
    const root = document.querySelector("[data-status-socket]");
    if (root instanceof HTMLElement) start(root);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
