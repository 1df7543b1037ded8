/* Interactive figures of the course: plain JavaScript, no library, no network, also from file://.
 *
 * In a page, <div class="qc-explorer" data-explorer="NAME"> holds a text for readers without JavaScript;
 * this script replaces it by the figure. The arithmetic is exported as window.quantcourse, and the browser
 * tests compare it with the Python package, code by code.
 *
 *   float-bits    flip the bits of a float, or type a number and see it rounded
 *   fixed-point   choose a Q-format, move a number, compare saturation with wrap-around
 */
(() => {
"use strict";

/* ---------- floating point ---------- */

// [exponent bits, fraction bits, bias, specials] as in quantcourse.floats
const formats = {
  "FP64": [11, 52, 1023, "ieee"],
  "FP32": [8, 23, 127, "ieee"],
  "FP24": [7, 16, 63, "ieee"],
  "TF32": [8, 10, 127, "ieee"],
  "FP16": [5, 10, 15, "ieee"],
  "BF16": [8, 7, 127, "ieee"],
  "FP8 E4M3": [4, 3, 7, "fn"],
  "FP8 E5M2": [5, 2, 15, "ieee"],
  "FP4 E2M1": [2, 1, 1, "finite"],
};

const described = {};

/** A format with what follows from its four numbers; computed once. */
function describe(name) {
  if (described[name]) return described[name];
  const [exponentBits, fractionBits, bias, specials] = formats[name];
  const magnitudes = 1n << BigInt(exponentBits + fractionBits);
  // Codes count upward from zero, so one number says where the finite values end.
  const maxCode = specials === "ieee" ? magnitudes - (1n << BigInt(fractionBits)) - 1n : specials === "fn" ? magnitudes - 2n : magnitudes - 1n;
  const highest = Number(maxCode >> BigInt(fractionBits)) - bias; // exponent of the largest number
  return described[name] = { name, exponentBits, fractionBits, bias, specials, bits: 1 + exponentBits + fractionBits, maxCode, highest };
}

const view = new DataView(new ArrayBuffer(8));
const toBits = x => (view.setFloat64(0, x), view.getBigUint64(0));
const fromBits = b => (view.setBigUint64(0, b), view.getFloat64(0));

/** 2**e, exact down to the smallest subnormal (Math.pow need not be). */
const power = e => fromBits(e >= -1022 ? BigInt(e + 1023) << 52n : 1n << BigInt(e + 1074));

/** Exponent of the leading bit of a finite x > 0. */
function leading(x) {
  const stored = Number((toBits(x) >> 52n) & 0x7ffn);
  return stored ? stored - 1023 : leading(x * power(60)) - 60;
}

/** Nearest integer, ties to even. */
function roundEven(x) {
  const low = Math.floor(x), rest = x - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low;
}

/** The three stored integers of a code, as BigInt. */
function split(name, code) {
  const { exponentBits, fractionBits } = describe(name), f = BigInt(fractionBits), e = BigInt(exponentBits);
  return { sign: code >> (e + f), exponent: (code >> f) & ((1n << e) - 1n), fraction: code & ((1n << f) - 1n) };
}

/** "zero", "subnormal", "normal", "infinity" or "NaN". */
function classify(name, code) {
  const { exponentBits, fractionBits, maxCode, specials } = describe(name), { exponent, fraction } = split(name, code);
  const magnitude = code & ((1n << BigInt(exponentBits + fractionBits)) - 1n);
  if (magnitude > maxCode) return specials === "ieee" && fraction === 0n ? "infinity" : "NaN";
  return exponent ? "normal" : fraction ? "subnormal" : "zero";
}

/** A finite code as integer * 2**exponent: [BigInt, number]. */
function integerAndExponent(name, code) {
  const { fractionBits, bias } = describe(name), { exponent, fraction } = split(name, code);
  const significand = exponent ? fraction + (1n << BigInt(fractionBits)) : fraction;
  return [significand, Math.max(Number(exponent), 1) - bias - fractionBits];
}

/** Value of a code. */
function decode(name, code) {
  const sign = split(name, code).sign ? -1 : 1, kind = classify(name, code);
  if (kind === "NaN") return NaN;
  if (kind === "infinity") return sign * Infinity;
  const [significand, exponent] = integerAndExponent(name, code);
  return sign * Number(significand) * power(exponent); // exact: at most 53 bits
}

/** Gap between neighbors near x, as quantcourse.floats.FloatFormat.ulp. */
function ulp(name, x) {
  const { fractionBits, bias, highest } = describe(name);
  if (!Number.isFinite(x)) return NaN;
  const lowest = 1 - bias;
  const exponent = x === 0 ? lowest : Math.min(Math.max(leading(Math.abs(x)), lowest), highest);
  return power(exponent - fractionBits);
}

/** Code of x rounded to nearest, ties to even; null for NaN in a format that has none. */
function encode(name, x, saturate = false) {
  const { exponentBits, fractionBits, bias, maxCode, specials } = describe(name);
  const f = BigInt(fractionBits), sign = (x < 0 || Object.is(x, -0) ? 1n : 0n) << BigInt(exponentBits + fractionBits);
  const infinity = maxCode + 1n; // in "ieee"; the same code is NaN in "fn"
  if (Number.isNaN(x)) return specials === "ieee" ? infinity | (1n << (f - 1n)) : specials === "fn" ? infinity : null;
  const max = decode(name, maxCode);
  let y = Math.abs(x);
  if (y !== Infinity) y = roundEven(y / ulp(name, y)) * ulp(name, y);
  if (y > max) {
    if (!saturate && specials !== "finite") return sign | infinity;
    y = max;
  }
  const gap = ulp(name, y), doublings = y === 0 ? 0 : Math.max(leading(y) - (1 - bias), 0);
  return sign | ((BigInt(doublings) << f) + BigInt(y / gap));
}

/* ---------- exact decimals ---------- */

/** integer * 2**exponent written out in full. */
function inFull(integer, exponent) {
  if (exponent >= 0) return String(integer << BigInt(exponent));
  const digits = String(integer * 5n ** BigInt(-exponent)).padStart(1 - exponent, "0"); // 2**-n = 5**n / 10**n
  const point = digits.length + exponent;
  return `${digits.slice(0, point)}.${digits.slice(point)}`.replace(/\.?0+$/, "");
}

/** The value itself where it has few digits, else the shortest decimal that rounds to this code. */
function inShort(name, code) {
  const x = decode(name, code);
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "NaN" : x < 0 ? "−∞" : "+∞";
  if (inFull(...integerAndExponent(name, code)).replace(/^0\.0*|\./g, "").length <= 13) return decimal(x);
  for (let digits = 1; digits < 17; digits++) {
    const candidate = Number(x.toPrecision(digits));
    if (encode(name, candidate) === code) return decimal(candidate);
  }
  return decimal(x);
}

const decimal = x => (Object.is(x, -0) ? "-0" : String(x)).replace("e+", "e").replaceAll("-", "−");

/** A typed decimal as [numerator, denominator], or null if it is no decimal number of bearable length. */
function rational(text) {
  const match = /^([+-]?)(\d*)\.?(\d*)(?:e([+-]?\d+))?$/i.exec(text);
  if (!match || !(match[2] + match[3])) return null;
  const exponent = Number(match[4] || 0) - match[3].length;
  if (Math.abs(exponent) > 2000 || text.length > 2000) return null;
  const integer = BigInt(match[2] + match[3]) * (match[1] === "-" ? -1n : 1n);
  return exponent < 0 ? [integer, 10n ** BigInt(-exponent)] : [integer * 10n ** BigInt(exponent), 1n];
}

/** numerator / denominator to four digits. */
function scientific(numerator, denominator) {
  if (numerator === 0n) return "0";
  const sign = numerator < 0n ? "−" : "", n = numerator < 0n ? -numerator : numerator;
  let exponent = String(n).length - String(denominator).length - 2, digits;
  do { // the lengths leave two exponents possible
    exponent += 1;
    const shift = 3 - exponent, scaled = shift >= 0 ? [n * 10n ** BigInt(shift), denominator] : [n, denominator * 10n ** BigInt(-shift)];
    digits = (2n * scaled[0] + scaled[1]) / (2n * scaled[1]);
  } while (digits >= 10000n);
  return sign + decimal(Number(`${digits}e${exponent - 3}`));
}

/* ---------- fixed point ---------- */

/** Integer code of x in Q(integerBits).(fractionBits), ties to even; overflow is "saturate" or "wrap". */
function fixedEncode(q, x, overflow = "saturate") {
  const bits = q.integerBits + q.fractionBits + (q.signed ? 1 : 0);
  const min = q.signed ? -(2 ** (bits - 1)) : 0, max = q.signed ? 2 ** (bits - 1) - 1 : 2 ** bits - 1;
  const rounded = roundEven(x * 2 ** q.fractionBits) + 0; // + 0 turns -0 into 0
  if (overflow === "saturate") return Math.min(max, Math.max(min, rounded));
  return Number((q.signed ? BigInt.asIntN : BigInt.asUintN)(bits, BigInt(rounded)));
}
const fixedDecode = (q, code) => code * 2 ** -q.fractionBits;

/* ---------- drawing ---------- */

const SVG = ["svg", "g", "path", "line", "circle", "text"];

/** An element with attributes (on… are listeners) and children. */
function h(tag, attributes = {}, ...children) {
  const element = SVG.includes(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const minus = text => String(text).replaceAll("-", "−");
const fact = (name, ...value) => [h("dt", {}, name), h("dd", {}, ...value)];

/** Long numbers fold away; nothing is left out. */
function foldable(text) {
  if (text.length <= 72) return h("span", { class: "qc-mono" }, text);
  const digits = text.replace(/\D/g, "").length;
  return h("details", {}, h("summary", {}, `all ${digits} digits`), h("span", { class: "qc-mono" }, text));
}

function floatBits(root) {
  const wanted = (root.dataset.format || "").replace("_", " ");
  let name = wanted in formats ? wanted : "FP16", code = encode(name, 1), typed = null;

  const choice = h("select", { onchange: () => { name = choice.value; rebuild(); } },
    ...Object.keys(formats).map(n => h("option", { value: n, selected: n === name }, n)));
  const number = h("input", { type: "text", inputmode: "text", autocomplete: "off", spellcheck: "false", placeholder: "such as 0.1", oninput: type });
  const saturate = h("input", { type: "checkbox", onchange: type });
  const buttons = h("div", { class: "qc-buttons", role: "group", "aria-label": "Set the bits to" });
  const bits = h("div", { class: "qc-bits", role: "toolbar", "aria-label": "Bits: arrow keys move, space flips", onkeydown: move });
  const out = h("output", { "aria-live": "polite", class: "qc-out" });
  const facts = h("dl", { class: "qc-facts" });

  function rebuild() { // for another format
    const { exponentBits, fractionBits, maxCode, specials } = describe(name), total = 1 + exponentBits + fractionBits;
    const bit = (field, place, worth) => h("button", {
      type: "button", class: "qc-bit", tabindex: place === total - 1 ? "0" : "-1", "data-place": place, "data-name": `${field} bit${worth}`,
      onclick: event => { code ^= 1n << BigInt(place); focus(event.currentTarget); bitsChanged(); },
    });
    const part = (field, title, list) => {
      const bytes = []; // groups of eight, counted from the right, so that long fields wrap in step
      for (let end = list.length; end > 0; end -= 8) bytes.unshift(h("span", { class: "qc-byte" }, ...list.slice(Math.max(end - 8, 0), end)));
      return h("div", { class: `qc-part qc-${field}` }, h("span", {}, title), h("span", { class: "qc-bytes" }, ...bytes));
    };
    const plural = (n, title) => `${title}: ${n} ${n === 1 ? "bit" : "bits"}`;
    bits.replaceChildren(
      part("sign", "Sign", [bit("sign", total - 1, "")]),
      part("exponent", plural(exponentBits, "Exponent"), Array.from({ length: exponentBits }, (_, i) => bit("exponent", total - 2 - i, `, worth ${2 ** (exponentBits - 1 - i)}`))),
      part("fraction", plural(fractionBits, "Fraction"), Array.from({ length: fractionBits }, (_, i) => bit("fraction", fractionBits - 1 - i, `, worth 2 to the minus ${i + 1}`))));
    const smallestNormal = 1n << BigInt(fractionBits);
    const presets = [["1", encode(name, 1)], ["largest", maxCode], ["smallest normal", smallestNormal], ["smallest subnormal", 1n]];
    if (specials === "ieee") presets.push(["infinity", maxCode + 1n]);
    if (specials !== "finite") presets.push(["NaN", encode(name, NaN)]);
    buttons.replaceChildren(...presets.map(([title, preset]) => h("button", { type: "button", onclick: () => { code = preset; bitsChanged(); } }, title)));
    saturate.disabled = specials === "finite";
    if (typed !== null) type(); else { code = encode(name, 1); show(); }
  }
  function bitsChanged() { typed = null; number.value = ""; show(); }
  function type() { // the number is read as FP64 first, as Python reads it, and then rounded
    const text = number.value.trim().replaceAll("−", "-").replaceAll("_", "").replaceAll(",", ".");
    if (!text) { typed = null; return show(); }
    const special = /^([+-]?)(?:(inf|infinity|∞)|nan)$/i.exec(text);
    const x = special ? (special[2] ? (special[1] === "-" ? -Infinity : Infinity) : NaN) : rational(text) ? Number(text) : null;
    const rounded = x === null ? null : encode(name, x, saturate.checked);
    typed = { text, x, exact: special ? null : rational(text), ok: rounded !== null };
    if (rounded !== null) code = rounded;
    show();
  }
  function focus(button) { // one button of the row takes part in the tab order
    for (const other of bits.querySelectorAll("button")) other.tabIndex = other === button ? 0 : -1;
    button.focus();
  }
  function move(event) {
    const row = [...bits.querySelectorAll("button")], here = row.indexOf(document.activeElement);
    const there = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: row.length - 1 }[event.key];
    if (there === undefined || here < 0) return;
    focus(row[(there + row.length) % row.length]);
    event.preventDefault();
  }

  function show() {
    const { exponentBits, fractionBits, bias, bits: total } = describe(name), kind = classify(name, code), x = decode(name, code);
    const { sign, exponent, fraction } = split(name, code);
    for (const button of bits.querySelectorAll("button")) {
      const on = (code >> BigInt(button.dataset.place)) & 1n;
      button.textContent = on;
      button.setAttribute("aria-pressed", String(on === 1n));
      button.setAttribute("aria-label", `${on}, ${button.dataset.name}`);
    }
    const spoken = kind === "infinity" ? (x < 0 ? "minus infinity" : "infinity") : kind === "NaN" ? "not a number" : inShort(name, code);
    out.replaceChildren(spoken, h("small", {}, ` ${name}, ${kind}`));
    if (typed && !typed.ok) out.replaceChildren(h("small", {}, typed.x === null ? "This is not a number." : `${name} has no NaN.`));

    const finite = Number.isFinite(x), rows = [];
    if (typed && typed.ok) rows.push(...rounding(finite));
    rows.push(...fact("Fields",
      h("span", { class: "qc-s" }, `sign ${sign}`), ", ", h("span", { class: "qc-e" }, `exponent ${exponent}`), ", ", h("span", { class: "qc-f" }, `fraction ${fraction}`)));
    rows.push(...fact("Formula", ...formula(kind, sign, exponent, fraction, x, exponentBits, fractionBits, bias)));
    if (finite) rows.push(...fact("Value in full", foldable((sign ? "−" : "") + inFull(...integerAndExponent(name, code)))));
    rows.push(...fact("Code", h("code", {}, `0x${code.toString(16).toUpperCase().padStart(Math.ceil(total / 4), "0")}`)));
    if (finite) {
      const gap = ulp(name, x);
      rows.push(...fact("Gap to the next", "2", h("sup", {}, minus(leading(gap))), ` = ${decimal(gap)}`));
    }
    facts.replaceChildren(...rows);
  }
  function rounding(finite) {
    const shown = typed.text.length > 40 ? `${typed.text.slice(0, 40)}…` : typed.text;
    if (!typed.exact) return fact("You typed", minus(shown));
    if (!finite) return fact("Rounding error", `${minus(shown)} is beyond the largest ${name} number`);
    const [n, d] = typed.exact, [integer, exponent] = integerAndExponent(name, code), signed = split(name, code).sign ? -integer : integer;
    const [vn, vd] = exponent < 0 ? [signed, 1n << BigInt(-exponent)] : [signed << BigInt(exponent), 1n];
    const error = [vn * d - n * vd, d * vd];
    if (error[0] === 0n) return fact("Rounding error", `none: ${minus(shown)} is a number of ${name}`);
    const relative = n === 0n ? "" : `, ${scientific((error[0] < 0n ? -error[0] : error[0]) * vd * d * 100n, error[1] * (n < 0n ? -n : n) * vd)} % of it`;
    return fact("Rounding error", `${scientific(...error)} against the ${minus(shown)} that you typed${relative}`);
  }
  function formula(kind, sign, exponent, fraction, x, exponentBits, fractionBits, bias) {
    if (kind === "zero") return ["all exponent and fraction bits are 0: ", sign ? "minus zero" : "zero"];
    if (kind === "infinity") return ["the exponent is all ones and the fraction is 0"];
    if (kind === "NaN") return [describe(name).specials === "fn" ? "exponent and fraction are all ones" : "the exponent is all ones and the fraction is not 0"];
    const normal = kind === "normal", stored = normal ? String(exponent) : "1", true_ = Number(stored) - bias;
    const significand = decimal(Math.abs(x) / power(true_)), binary = fraction.toString(2).padStart(fractionBits, "0");
    return [
      "(−1)", h("sup", { class: "qc-s" }, String(sign)), " × ", normal ? "1." : "0.", h("span", { class: "qc-f" }, binary), h("sub", {}, "2"),
      " × 2", h("sup", {}, h("span", { class: "qc-e" }, stored), ` − ${bias}`), h("br"), `= ${sign ? "−" : ""}${significand} × 2`, h("sup", {}, minus(true_)),
      normal ? "" : " (a stored exponent of 0 counts as 1, without the leading 1)",
    ];
  }

  root.replaceChildren(
    h("div", { class: "qc-controls" }, h("label", {}, "Format", choice), h("label", { class: "qc-wide" }, "Type a number to round it", number),
      h("label", { class: "qc-check" }, saturate, "saturate on overflow")),
    buttons, bits, out, facts);
  rebuild();
}

function fixedPoint(root) {
  const data = root.dataset, clamp = (v, low, high) => Math.min(high, Math.max(low, v));
  const whole = (title, value) => h("input", { type: "number", min: "0", max: "12", step: "1", value, "aria-label": title, oninput: show });
  const integerBits = whole("Integer bits", data.integerBits || "3"), fractionBits = whole("Fraction bits", data.fractionBits || "4");
  const signed = h("input", { type: "checkbox", checked: data.signed !== "false", onchange: show });
  const number = h("input", { type: "text", inputmode: "decimal", autocomplete: "off", value: data.value || "2.7", oninput: () => { x = read() ?? x; show(); } });
  const slider = h("input", { type: "range", step: "any", "aria-label": "The real number", oninput: () => { x = Number(Number(slider.value).toPrecision(4)); number.value = x; show(); } });
  const out = h("output", { "aria-live": "polite", class: "qc-out" }), facts = h("dl", { class: "qc-facts" }), bits = h("div", { class: "qc-bits", "aria-hidden": "true" });
  const picture = h("svg", { viewBox: "0 0 520 210", role: "img" });
  const read = () => { const text = number.value.trim().replaceAll("−", "-").replaceAll(",", "."); return rational(text) && Number.isFinite(Number(text)) ? Number(text) : null; };
  let x = read() ?? 0;

  /** A code in binary, with the point drawn and the sign bit apart. */
  function binary(q, code) {
    const width = q.integerBits + q.fractionBits + (q.signed ? 1 : 0), digits = BigInt.asUintN(width, BigInt(code)).toString(2).padStart(width, "0");
    const sign = q.signed ? digits[0] : "", integer = digits.slice(sign.length, width - q.fractionBits), fraction = digits.slice(width - q.fractionBits);
    return { sign, integer, fraction, text: `${sign ? sign + " " : ""}${integer}.${fraction}` };
  }
  function show() {
    const q = { integerBits: clamp(Math.round(+integerBits.value) || 0, 0, 12), fractionBits: clamp(Math.round(+fractionBits.value) || 0, 0, 12), signed: signed.checked };
    const total = q.integerBits + q.fractionBits + (q.signed ? 1 : 0);
    if (total === 0) return out.replaceChildren(h("small", {}, "A number needs one bit at least."));
    const resolution = 2 ** -q.fractionBits, minCode = q.signed ? -(2 ** (total - 1)) : 0, maxCode = q.signed ? 2 ** (total - 1) - 1 : 2 ** total - 1;
    const min = minCode * resolution, max = maxCode * resolution, span = max - min || 1;
    const low = min - 0.6 * span, high = max + 0.6 * span;
    slider.min = low; slider.max = high; slider.value = x;

    const code = fixedEncode(q, x), value = fixedDecode(q, code), wrapped = fixedEncode(q, x, "wrap"), wrappedValue = fixedDecode(q, wrapped);
    const fits = code === wrapped, drawn = binary(q, code);
    out.replaceChildren(decimal(value), h("small", {}, ` ${q.signed ? "Q" : "UQ"}${q.integerBits}.${q.fractionBits}, code ${minus(code)}${fits ? "" : `; wrapped around ${decimal(wrappedValue)}`}`));

    const part = (field, title, digits) => digits && h("div", { class: `qc-part qc-${field}` }, h("span", {}, title),
      h("span", { class: "qc-bytes" }, h("span", { class: "qc-byte" }, ...[...digits].map(d => h("span", { class: "qc-bit qc-still", "data-on": d }, d)))));
    bits.replaceChildren(...[part("sign", "Sign", drawn.sign), part("exponent", "Integer", drawn.integer), part("fraction", "Fraction", drawn.fraction)].filter(Boolean));

    const error = (v) => { const e = v - x; return e === 0 ? "exact" : `error ${decimal(Number(e.toPrecision(4)))}`; };
    facts.replaceChildren(
      ...fact("Saturated", h("code", {}, drawn.text), ` = ${minus(code)} × 2`, h("sup", {}, minus(-q.fractionBits)), ` = ${decimal(value)}, ${error(value)}`),
      ...fact("Wrapped", h("code", {}, binary(q, wrapped).text), ` = ${minus(wrapped)} × 2`, h("sup", {}, minus(-q.fractionBits)), ` = ${decimal(wrappedValue)}, ${error(wrappedValue)}`),
      ...fact("Range", `${decimal(min)} to ${decimal(max)} in ${2 ** total} steps of ${decimal(resolution)}`));
    draw(q, low, high, min, max, value, wrappedValue);
  }
  function draw(q, low, high, min, max, value, wrapped) {
    const X = v => 34 + (v - low) / (high - low) * 452, Y = v => 178 - (v - min) / (max - min || 1) * 150;
    const path = overflow => { // one point for every pixel; a jump down of the wrapped curve is a gap
      let d = "", before = NaN;
      for (let i = 0; i <= 452; i++) {
        const v = low + (high - low) * i / 452, y = fixedDecode(q, fixedEncode(q, v, overflow));
        d += `${Math.abs(y - before) < 0.6 * (max - min || 1) ? "L" : "M"}${X(v).toFixed(1)} ${Y(y).toFixed(1)}`;
        before = y;
      }
      return d;
    };
    const at = clamp(x, low, high), tick = v => h("text", { x: X(v), y: "200", "text-anchor": "middle" }, decimal(v));
    picture.setAttribute("aria-label", `Number in, number out. Saturation keeps ${decimal(max)} beyond the right end; wrap-around starts again at ${decimal(min)}.`);
    picture.replaceChildren(
      h("line", { class: "qc-axis", x1: 34, x2: 486, y1: 184, y2: 184 }),
      h("line", { class: "qc-axis", x1: X(at), x2: X(at), y1: 184, y2: 14 }),
      h("path", { class: "qc-wrap", d: path("wrap") }), h("path", { class: "qc-saturate", d: path("saturate") }),
      h("circle", { class: "qc-dot-wrap", cx: X(at), cy: Y(wrapped), r: 5 }), h("circle", { class: "qc-dot-saturate", cx: X(at), cy: Y(value), r: 5 }),
      h("text", { class: "qc-label-saturate", x: 486, y: 18, "text-anchor": "end" }, "saturate"),
      h("text", { class: "qc-label-wrap", x: 486, y: 172, "text-anchor": "end" }, "wrap around"), tick(min), tick(max));
  }
  const field = (title, input) => h("label", {}, title, input);
  root.replaceChildren(
    h("div", { class: "qc-controls" }, field("Integer bits", integerBits), field("Fraction bits", fractionBits), h("label", { class: "qc-check" }, signed, "sign bit"),
      h("label", { class: "qc-wide" }, "Real number", number)),
    slider, picture, out, bits, facts);
  show();
}

/* ---------- start ---------- */

window.quantcourse = { formats, encode, decode, classify, split, ulp, inFull, inShort, integerAndExponent, rational, scientific, fixedEncode, fixedDecode };
const explorers = { "float-bits": floatBits, "fixed-point": fixedPoint };
for (const root of document.querySelectorAll(".qc-explorer[data-explorer]")) explorers[root.dataset.explorer]?.(root);
// Folded solutions open for printing.
addEventListener("beforeprint", () => document.querySelectorAll("details.admonition").forEach(box => { box.open = true; }));
})();
