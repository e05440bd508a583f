// @ts-check
// The field for the phone and the country beside it: helps while one types, keeps the
// caret where it was, takes a pasted number in any form.

import { clean, digitsOf, NumberingPlan } from "./phone-number.js";

/** @typedef {import("./phone-number.js").Reading} Reading */

const DIGIT = /\d/;

/** @param {string} region @returns {string} its flag, where the system draws flags */
const flag = (region) =>
  String.fromCodePoint(...[...region].map((letter) => 0x1f1a5 + letter.charCodeAt(0)));

export class PhoneField {
  /** @type {NumberingPlan | null} */
  #plan = null;
  #touched = false;
  #digits = "";

  /**
   * @param {HTMLInputElement} input
   * @param {HTMLSelectElement} select
   * @param {{language: string, signal: AbortSignal, changed: () => void,
   *   settled: () => void}} options changed: by a person; settled: written anew
   */
  constructor(input, select, { language, signal, changed, settled }) {
    this.input = input;
    this.select = select;
    this.changed = changed;
    this.settled = settled;
    this.names = new Intl.DisplayNames([language], { type: "region" });
    this.collator = new Intl.Collator(language);
    input.addEventListener("input", (event) => {
      this.#typed(/** @type {InputEvent} */ (event));
    }, { signal });
    input.addEventListener("blur", () => this.#finish(), { signal });
    select.addEventListener("change", () => this.#chosen(), { signal });
  }

  /** @param {import("./phone-number.js").Table} table @param {string} country that was chosen before */
  learn(table, country) {
    this.#plan = new NumberingPlan(table);
    const options = [...this.#plan.regions.values()]
      .map(({ id, code }) => ({ id, code, name: this.#name(id) }))
      .sort((one, other) => this.collator.compare(one.name, other.name))
      // The name comes first, so that typing it finds it.
      .map(({ id, code, name }) => new Option(`${name} +${code} ${flag(id)}`, id));
    this.select.replaceChildren(...options);
    this.#choose(country || table.home);
    this.#follow();
    if (document.activeElement !== this.input) this.#finish();
  }

  get isTouched() {
    return this.#touched;
  }

  get country() {
    return this.select.value;
  }

  /** @returns {Reading} */
  read() {
    const text = clean(this.input.value);
    return this.#plan?.read(text, this.country)
      ?? { send: text, region: null, national: "", trouble: text ? null : "empty", doubt: false };
  }

  /** @param {string} digits the number of somebody known, if nobody has typed one */
  offer(digits) {
    if (!this.#touched && !this.input.value && /^\d{7,15}$/.test(digits)) this.set(digits);
  }

  /** @param {string} digits in international form */
  set(digits) {
    this.input.value = `+${digits}`;
    this.#finish();
  }

  /** @param {string} digits @returns {string} as it is written */
  write(digits) {
    if (!this.#plan) return `+${digits}`;
    return this.#plan.writeWhole(this.#plan.read(`+${digits}`, this.country));
  }

  example() {
    return this.#plan?.example(this.country) ?? this.input.placeholder;
  }

  countryName() {
    return this.#name(this.country);
  }

  /** @param {string} id */
  #name(id) {
    // None is chosen before the countries are known; DisplayNames throws at nothing.
    return (id && this.names.of(id)) || id;
  }

  /** @param {string} id */
  #choose(id) {
    this.select.value = id;
    this.input.placeholder = this.example();
  }

  /** Let the country follow what is typed. */
  #follow() {
    const { region } = this.read();
    if (region && region.id !== this.country) this.#choose(region.id);
  }

  /** @param {InputEvent} event */
  #typed(event) {
    this.#touched = true;
    if (!event.isComposing) {
      const backward = event.inputType === "deleteContentBackward";
      const forward = event.inputType === "deleteContentForward";
      if (backward || forward) this.#eraseBehindSign(backward);
      this.#rewrite();
      this.#follow();
    }
    this.#digits = digitsOf(this.input.value);
    this.changed();
  }

  /** Who erases a space or a dash means the digit beside it. @param {boolean} backward */
  #eraseBehindSign(backward) {
    const { value, selectionStart } = this.input;
    if (!this.#digits || digitsOf(value) !== this.#digits) return;
    const caret = selectionStart ?? value.length;
    const before = value.slice(0, caret);
    const after = value.slice(caret);
    const kept = backward ? before.replace(/\d(\D*)$/, "$1") : before;
    this.input.value = kept + (backward ? after : after.replace(/^(\D*)\d/, "$1"));
    this.input.setSelectionRange(kept.length, kept.length);
  }

  /** Write the number in groups; the caret stays behind the same digit. */
  #rewrite() {
    const { value, selectionStart } = this.input;
    const written = this.#plan?.write(value, this.country) ?? value;
    if (written === value) return;
    const caret = selectionStart ?? value.length;
    const atEnd = caret === value.length;
    let left = digitsOf(value.slice(0, caret)).length;
    // A plus that was added or a code's first digits count as they are read.
    let place = written.startsWith("+") && caret > 0 ? 1 : 0;
    while (left > 0 && place < written.length) {
      if (DIGIT.test(written[place])) left -= 1;
      place += 1;
    }
    this.input.value = written;
    const end = atEnd ? written.length : place;
    this.input.setSelectionRange(end, end);
  }

  #finish() {
    if (!this.#plan || !this.input.value) return;
    this.#follow();
    const reading = this.read();
    if (!reading.trouble && this.#plan.isUsual(reading)) {
      this.input.value = this.#plan.writeWhole(reading);
    }
    this.#digits = digitsOf(this.input.value);
    this.settled();
  }

  #chosen() {
    const before = this.read();
    this.input.placeholder = this.example();
    const region = this.#plan?.region(this.country);
    if (region && before.national && this.input.value.trim().startsWith("+")) {
      this.input.value = this.#plan?.write(`+${region.code}${before.national}`, region.id) ?? "";
    }
    this.#digits = digitsOf(this.input.value);
    this.changed();
  }
}
