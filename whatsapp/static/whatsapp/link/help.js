// @ts-check
// Beside the code: copying it, and the drawings for the phone that somebody has.

/** @typedef {import("./view.js").View} View */

const COPIED_MS = 3_000;

/** @param {View} view @param {AbortSignal} signal */
export const offerCopy = (view, signal) => {
  view.get("copy").addEventListener("click", async () => {
    // WhatsApp's own field has no place for the dash.
    const text = view.get("code").textContent.replace("-", "");
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // In a foreign frame the clipboard may be closed: the selection still can be copied.
      getSelection()?.selectAllChildren(view.get("code"));
      if (!document.execCommand("copy")) return;
    }
    view.say("copy", view.word("copied"));
    setTimeout(() => view.say("copy", view.word("copy")), COPIED_MS);
  }, { signal });
};

/** @param {HTMLElement} root @param {string} chosen before, or "" @param {AbortSignal} signal */
export const offerSystems = (root, chosen, signal) => {
  /** @type {HTMLElement[]} */
  const buttons = [...root.querySelectorAll("button[data-system]")].map((one) => /** @type {any} */ (one));
  /** @param {string} system */
  const show = (system) => {
    root.dataset.system = system;
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.system === system));
    }
  };
  for (const button of buttons) {
    button.addEventListener("click", () => show(button.dataset.system ?? ""), { signal });
  }
  show(chosen || (/iPhone|iPad|Macintosh/.test(navigator.userAgent) ? "iphone" : "android"));
};
