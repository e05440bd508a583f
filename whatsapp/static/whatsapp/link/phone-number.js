// @ts-check
// What a person types as a phone number: how it is read, written and judged (pure).
// The server has the last word (whatsapp/phones.py); nothing that it would accept is
// refused here.

/**
 * A row of regions.json.
 * @typedef {object} Region
 * @property {string} id two letters
 * @property {string} code calling code
 * @property {string} trunk what is dialled before a national number
 * @property {number} slack how many more digits a national form may have
 * @property {RegExp} leading which national numbers are this region's, of those with its code
 * @property {RegExp} pattern what every number of the region looks like
 * @property {number[]} lengths how long national numbers may be
 * @property {string} example a national number, as it is written
 * @property {string[]} shapes how numbers are written, mobile first: "### ###-##-##"
 *
 * @typedef {{home: string, abroad: string, regions: any[][], stateless: string[]}} Table
 *
 * @typedef {"empty" | "letters" | "short" | "long" | "country"} Trouble
 *
 * @typedef {object} Reading
 * @property {string} send what the server is asked for
 * @property {Region | null} region whose number it is
 * @property {string} national its digits without the calling code; "" if unknown
 * @property {Trouble | null} trouble why the server would refuse it
 * @property {boolean} doubt possible, but no number that its country gives out
 */

const INVISIBLE = /\p{Cf}/gu;
const ALLOWED = /^[\d\s()+./\-·]*$/;

/** @param {string} text @returns {string} the text with its digits as 0-9 and plain dashes */
export const clean = (text) =>
  text.normalize("NFKC").replace(INVISIBLE, "").replace(/\p{Pd}/gu, "-").replace(/^tel:/i, "").trim();

/** @param {string} text */
export const digitsOf = (text) => clean(text).replace(/\D/g, "");

/** @param {string} shape */
const size = (shape) => shape.split("#").length - 1;

/** @param {string} shape @param {string} digits */
const fill = (shape, digits) => {
  let written = "";
  let used = 0;
  for (const sign of shape) {
    if (used === digits.length) return written;
    written += sign === "#" ? digits[used++] : sign;
  }
  return written + digits.slice(used);
};

export class NumberingPlan {
  /** @param {Table} table */
  constructor(table) {
    this.home = table.home;
    this.abroad = new RegExp(`^(?:${table.abroad})`);
    this.stateless = table.stateless;
    /** @type {Map<string, Region>} */
    this.regions = new Map();
    /** @type {Map<string, Region[]>} */
    this.byCode = new Map();
    for (const [id, code, trunk, slack, leading, pattern, lengths, examples] of table.regions) {
      const region = {
        id, code, trunk, slack, lengths,
        example: examples[0],
        shapes: examples.map((/** @type {string} */ one) => one.replace(/\d/g, "#")),
        leading: new RegExp(`^(?:${leading})`),
        pattern: new RegExp(`^(?:${pattern})$`),
      };
      this.regions.set(id, region);
      this.byCode.set(code, [...(this.byCode.get(code) ?? []), region]);
    }
  }

  /** @param {string} id @returns {Region} */
  region(id) {
    return /** @type {Region} */ (this.regions.get(id) ?? this.regions.get(this.home));
  }

  /** @param {string} id @returns {string} a number of the region, to show what is wanted */
  example(id) {
    const { code, example } = this.region(id);
    return `+${code} ${example}`;
  }

  /**
   * @param {string} digits with calling code @param {string} present the chosen region
   * @returns {{region: Region, national: string} | null}
   */
  split(digits, present) {
    for (const length of [1, 2, 3]) {
      const regions = this.byCode.get(digits.slice(0, length));
      if (!regions) continue;
      const national = digits.slice(length);
      // Of the countries that share a code the chosen one stays, unless the number
      // is plainly another's.
      const chosen = regions.filter(({ id }) => id === present);
      const region = [...chosen, ...regions].find(
        (one) => one.leading.test(national) && this.isValid(one, national),
      ) ?? chosen[0] ?? regions[0];
      return { region, national };
    }
    return null;
  }

  /** @param {Region} region @param {string} national */
  isValid(region, national) {
    return region.lengths.includes(national.length) && region.pattern.test(national);
  }

  /**
   * With and without the trunk prefix, where nothing else is dialled with it.
   *
   * @param {Region} region @param {string} national @returns {string[]}
   */
  #forms({ trunk, slack }, national) {
    return trunk && !slack && national.startsWith(trunk)
      ? [national, national.slice(trunk.length)] : [national];
  }

  /** @param {Region} region @param {string} national @returns {"short" | "long" | null} */
  #length(region, national) {
    const { lengths, slack } = region;
    const least = Math.min(...lengths);
    const most = Math.max(...lengths);
    const forms = this.#forms(region, national);
    if (forms.some(({ length }) => lengths.includes(length))) return null;
    if (slack && national.length >= least && national.length <= most + slack) return null;
    return forms[forms.length - 1].length < least ? "short" : "long";
  }

  /**
   * @param {string} typed @param {string} present the chosen region
   * @returns {Reading}
   */
  read(typed, present) {
    const text = clean(typed);
    const digits = text.replace(/\D/g, "");
    const reading = { send: text, region: null, national: "", trouble: null, doubt: false };
    if (!text) return { ...reading, trouble: "empty" };
    if (!ALLOWED.test(text) || !digits || text.slice(1).includes("+")) {
      return { ...reading, trouble: "letters" };
    }
    if (text.startsWith("+")) return this.#international(reading, digits, present);
    if (text.startsWith("00")) return this.#international(reading, digits.slice(2), present);
    return this.#bare(reading, digits, present);
  }

  /** @param {Reading} reading @param {string} digits @param {string} present @returns {Reading} */
  #international(reading, digits, present) {
    const parts = this.split(digits, present);
    if (!parts) {
      if (this.stateless.some((code) => digits.startsWith(code))) return reading;
      return { ...reading, trouble: digits.length < 4 ? "short" : "country" };
    }
    const { region } = parts;
    const trouble = this.#length(region, parts.national);
    const national = this.#forms(region, parts.national)
      .find((form) => this.isValid(region, form)) ?? parts.national;
    const doubt = !trouble && !this.isValid(region, national);
    return { send: `+${region.code}${national}`, region, national, trouble, doubt };
  }

  /**
   * A number without a plus may be national or international.
   *
   * @param {Reading} reading @param {string} digits @param {string} present @returns {Reading}
   */
  #bare(reading, digits, present) {
    const own = this.region(present);
    if (own.id === this.home && this.abroad.test(digits)) return { ...reading, region: own };
    const national = this.#forms(own, digits).reverse()
      .map((form) => this.#international(reading, own.code + form, present));
    const whole = this.#international(reading, digits, present);
    // 49 151… is Germany's code and a mobile number rather than thirteen digits without.
    const codeFirst = digits.startsWith(own.code) && digits.length !== size(own.shapes[0]);
    const readings = codeFirst ? [whole, ...national] : [...national, whole];
    const possible = readings.filter(({ trouble }) => !trouble);
    const valid = possible.filter(({ doubt }) => !doubt);
    const [first, ...others] = valid.length ? valid : possible;
    if (first) {
      // At home the server knows better what a number without a plus means.
      const rivals = first.region?.code === own.code ? others : possible;
      const open = !this.isUsual(first) || rivals.some(({ send }) => send !== first.send);
      return own.id === this.home && open ? { ...reading, region: own } : first;
    }
    const home = this.region(this.home);
    if (own !== home && !this.#length(home, digits)) return reading;
    return { ...national[0], send: reading.send };
  }

  /** Whether a number is as long as its country's numbers mostly are. @param {Reading} reading */
  isUsual({ region, national }) {
    return region !== null && region.shapes.some((shape) => size(shape) === national.length);
  }

  /**
   * Write a number as far as it has been typed.
   *
   * @param {string} typed @param {string} present @returns {string}
   */
  write(typed, present) {
    const text = clean(typed);
    const digits = text.replace(/\D/g, "");
    if (!ALLOWED.test(text) || text.slice(1).includes("+")) return typed;
    if (text.startsWith("+")) return this.#writeInternational(digits, present);
    const { code, trunk, shapes } = this.region(present);
    const most = size(shapes[0]);
    if (digits.startsWith("00") || digits.length < 2) return digits;
    if (digits.startsWith(code) && digits.length === code.length + most) {
      return this.#writeInternational(digits, present);
    }
    if (trunk && digits.startsWith(trunk) && digits.length <= trunk.length + most) {
      return `${trunk} ${fill(shapes[0], digits.slice(trunk.length))}`;
    }
    return digits.length <= most ? fill(shapes[0], digits) : digits;
  }

  /** @param {string} digits @param {string} present */
  #writeInternational(digits, present) {
    const parts = this.split(digits, present);
    if (!parts) return `+${digits}`;
    if (!parts.national) return `+${digits}`;
    return `+${parts.region.code} ${fill(parts.region.shapes[0], parts.national)}`;
  }

  /** Write a whole number: every length has its own shape. @param {Reading} reading */
  writeWhole({ region, national, send }) {
    if (!region || !national) return send;
    const shape = region.shapes.find((one) => size(one) === national.length);
    return `+${region.code} ${fill(shape ?? region.shapes[0], national)}`;
  }
}
