/* Interactive figures of the course: plain JavaScript, no library, no network, also from file://.
 *
 * In a page, <div class="qc-explorer" data-explorer="NAME"> holds a text for readers without JavaScript;
 * this script replaces it by the figure. The arithmetic is exported as window.quantcourse, and the browser
 * tests compare it with the Python package, code by code.
 *
 *   float-bits    flip the bits of a float, or type a number and see it rounded
 *   fixed-point   choose a Q-format, move a number, compare saturation with wrap-around
 *   clip-range    drag a clipping range over a histogram, weigh clipping against rounding error
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

/* ---------- affine mapping ---------- */

/** Smallest and largest code of { bits, signed, narrow }, as quantcourse.affine.IntType. */
function codeRange({ bits, signed, narrow = false }) {
  const first = signed ? -(2 ** (bits - 1)) : 0;
  return [narrow ? first + 1 : first, first + 2 ** bits - 1];
}

/** Scale and zero point for a range, which is widened to hold zero; symmetric ranges are for signed types. */
function chooseQParams(low, high, dtype, symmetric) {
  const [min, max] = codeRange(dtype), from = Math.min(low, 0), to = Math.max(high, 0);
  const width = symmetric ? Math.max(-from, to) : to - from, steps = symmetric ? max : max - min;
  const step = width === 0 ? 1 : Math.max(width / steps, power(-126)); // a float32 scale, and no subnormal
  // Dividing by a rounded step would move ties: those of [-1, 1] in UINT8, at 127.5, go to the even 128.
  const below = step === width / steps ? from * steps / width : from / step;
  const zeroPoint = symmetric ? 0 : Math.min(max, Math.max(min, roundEven(min - below)));
  return { scale: Math.fround(step), zeroPoint, dtype };
}

const largest = decode("FP32", describe("FP32").maxCode);

/** Code of a float32 before it is clipped. Math.fround makes the division one of float32. */
const unclipped = (x, { scale, zeroPoint }) => roundEven(Math.fround(x / scale)) + zeroPoint;
const dequantize = (code, { scale, zeroPoint }) => Math.fround(Math.min(largest, Math.max(-largest, scale * (code - zeroPoint))));
function quantize(x, qp) {
  const [min, max] = codeRange(qp.dtype);
  return Math.min(max, Math.max(min, unclipped(x, qp)));
}

/** Mean squared error of values whose code is clipped and of the others, and how many are clipped. */
function errorSplit(values, qp) {
  const [min, max] = codeRange(qp.dtype);
  let clipping = 0, rounding = 0, clipped = 0;
  for (const x of values) {
    const code = unclipped(x, qp), kept = code < min ? min : code > max ? max : code, error = x - dequantize(kept, qp);
    if (kept === code) rounding += error * error;
    else { clipping += error * error; clipped += 1; }
  }
  return { clipping: clipping / values.length, rounding: rounding / values.length, clipped };
}

/** Signal to quantization noise in dB. */
function sqnr(values, qp) {
  const { clipping, rounding } = errorSplit(values, qp);
  return 10 * Math.log10(values.reduce((sum, x) => sum + x * x, 0) / values.length / (clipping + rounding));
}

/** The range, no end of it beyond the data, with the least total error on a grid of 320 steps each way. */
function leastError(values, dtype, symmetric) {
  const low = Math.min(0, ...values), high = Math.max(0, ...values), far = Math.max(-low, high);
  let best = { total: Infinity };
  const consider = (a, b) => {
    const [from, to] = symmetric ? [-far * b / 320, far * b / 320] : [low * a / 320, high * b / 320];
    const { clipping, rounding } = errorSplit(values, chooseQParams(from, to, dtype, symmetric)), total = clipping + rounding;
    if (total < best.total) best = { total, from, to, a, b };
  };
  if (symmetric) for (let b = 1; b <= 320; b++) consider(b, b);
  else { // every tenth point first, then all around the best of them
    for (let a = 0; a <= 320; a += 10) for (let b = 0; b <= 320; b += 10) consider(a, b);
    const { a, b } = best;
    for (let i = Math.max(a - 9, 0); i <= Math.min(a + 9, 320); i++) for (let j = Math.max(b - 9, 0); j <= Math.min(b + 9, 320); j++) consider(i, j);
  }
  return [best.from, best.to];
}

/** Share of a normal distribution below x, by Marsaglia's series (2004). */
function normalBelow(x) {
  let sum = x, term = x, before;
  for (let i = 3; sum !== before; i += 2) {
    before = sum;
    term *= x * x / i;
    sum += term;
  }
  return 0.5 + sum * Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
}

/** An even number of normal quantiles, at the shares (i + 1/2) / n: a bell without chance. */
function normalQuantiles(n) {
  const quantiles = Array(n);
  let x = 0;
  for (let i = n / 2; i < n; i++) { // Newton's method, from the quantile before; the other half mirrors
    for (let move = 1; Math.abs(move) > 1e-11; x += move) move = ((i + 0.5) / n - normalBelow(x)) * Math.sqrt(2 * Math.PI) * Math.exp(x * x / 2);
    quantiles[i] = x;
    quantiles[n - 1 - i] = -x;
  }
  return quantiles;
}

// 3000 values each
const samples = {
  "weights": () => normalQuantiles(3000).map(z => 0.05 * z),
  "weights with outliers": () => [...normalQuantiles(2940).map(z => 0.05 * z), ...normalQuantiles(60).map(z => 0.25 * z)],
  "after a ReLU": () => normalQuantiles(3000).map(z => Math.max(0, 1 + 2 * z)),
  "after a GELU": () => normalQuantiles(3000).map(z => 2 * z * normalBelow(2 * z)),
  "all positive": () => normalQuantiles(3000).map(z => 6 + 0.4 * z),
};
const drawn = {};

/** The values of a data set in float32; computed once. */
const sample = name => drawn[name] ??= Float32Array.from(samples[name]());

/* ---------- drawing ---------- */

const SVG = ["svg", "g", "path", "line", "circle", "rect", "text"];

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

function clipRange(root) {
  const schemes = {
    "affine": [false, { signed: false }],
    "symmetric": [true, { signed: true }],
    "symmetric, narrow": [true, { signed: true, narrow: true }],
  };
  const left = 20, right = 500, floor = 196, tall = 160; // the histogram, in units of the viewBox
  const significant = (v, digits = 4) => v && Math.abs(v) < 1e-3 ? decimal(Number(v.toPrecision(digits)).toExponential()) : decimal(Number(v.toPrecision(digits)));
  const nice = v => { const ten = 10 ** Math.floor(Math.log10(v)); return [1, 2, 5, 10].find(m => m * ten >= v) * ten; };
  const path = (marks, d) => h("path", { class: marks, d });

  const select = (values, chosen, onchange) => h("select", { onchange }, ...values.map(v => h("option", { value: v, selected: String(v) === chosen }, v)));
  const data = select(Object.keys(samples), root.dataset.sample || "weights", changeData);
  const bits = select([2, 3, 4, 5, 6, 7, 8], root.dataset.bits || "4", show);
  const scheme = select(Object.keys(schemes), root.dataset.scheme || "affine", () => { frame(); set("high", Math.max(-low, high)); });
  const ends = ["low", "high"], field = {}, handle = {};
  for (const end of ends) {
    field[end] = h("input", { type: "text", inputmode: "text", autocomplete: "off", spellcheck: "false", size: "10", oninput: () => type(end), onchange: () => { problem = ""; show(); } });
    handle[end] = h("g", { class: "qc-handle", role: "slider", tabindex: "0", "aria-label": `${end === "low" ? "Low" : "High"} end of the range`, onkeydown: event => press(event, end) },
      h("rect", { class: "qc-grasp", x: -21, y: 4, width: 42, height: floor - 4 }), h("line", { x1: 0, x2: 0, y1: 16, y2: floor }), h("circle", { cx: 0, cy: 16, r: 10 }));
  }
  const back = h("g", { "aria-hidden": "true" });
  const picture = h("svg", { class: "qc-drag", viewBox: "0 0 520 236", role: "group", onpointerdown: grasp, onpointermove: drag, onpointerup: release, onpointercancel: release }, back, handle.low, handle.high);
  const curves = h("svg", { viewBox: "0 0 520 216", role: "img" });
  const out = h("output", { "aria-live": "polite", class: "qc-out" }), facts = h("dl", { class: "qc-facts" });
  let values, view, bars, low, high, held = null, problem = "";

  const X = v => left + (Math.min(view.to, Math.max(view.from, v)) - view.from) / (view.to - view.from) * (right - left);
  const isSymmetric = () => schemes[scheme.value][0];

  function changeData() {
    values = sample(data.value);
    frame();
    minMax();
  }
  /** The window on the data: as wide to both sides where ranges mirror. */
  function frame() {
    let min = Math.min(0, ...values), max = Math.max(0, ...values);
    if (isSymmetric()) { max = Math.max(-min, max); min = -max; }
    const margin = 0.1 * (max - min);
    view = { from: min - margin, to: max + margin, step: nice((max - min) / 500) };
    bars = Array(96).fill(0); // five units wide each
    for (const x of values) bars[Math.floor((x - view.from) / (view.to - view.from) * bars.length)] += 1;
  }
  function minMax() { low = Math.min(...values); high = Math.max(...values); set("high", isSymmetric() ? Math.max(-low, high) : high); }
  function least() {
    const [symmetric, type] = schemes[scheme.value];
    [low, high] = leastError(values, { bits: Number(bits.value), ...type }, symmetric);
    problem = "";
    show();
  }
  /** Move one end: not past the other, and in a symmetric range the other mirrors it. */
  function set(end, v) {
    if (isSymmetric()) { high = Math.max(0, end === "low" ? -v : v); low = 0 - high; }
    else if (end === "low") low = Math.min(v, high);
    else high = Math.max(v, low);
    problem = "";
    show();
  }
  const snap = v => Number((Math.round(Math.min(view.to, Math.max(view.from, v)) / view.step) * view.step).toPrecision(12)) + 0;
  function type(end) {
    const text = field[end].value.trim().replaceAll("−", "-").replaceAll(",", "."), v = Number(text), other = end === "low" ? high : low;
    if (!rational(text) || !Number.isFinite(Math.fround(v))) problem = "This is not a number of float32.";
    else if (isSymmetric()) return set(end, end === "low" ? -Math.abs(v) : Math.abs(v));
    else if (end === "low" ? v > other : v < other) problem = "The low end lies above the high end.";
    else return set(end, v);
    show();
  }
  function press(event, end) {
    const here = end === "low" ? low : high, one = view.step;
    const there = { ArrowLeft: here - one, ArrowDown: here - one, ArrowRight: here + one, ArrowUp: here + one, PageDown: here - 10 * one, PageUp: here + 10 * one, Home: view.from, End: view.to }[event.key];
    if (there === undefined) return;
    set(end, snap(there));
    event.preventDefault();
  }
  function pointed(event) {
    const box = picture.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * 520;
    return view.from + (x - left) / (right - left) * (view.to - view.from);
  }
  function grasp(event) { // anywhere: the nearer end comes
    if (!event.isPrimary || event.button !== 0) return;
    held = pointed(event) < (low + high) / 2 ? "low" : "high";
    picture.setPointerCapture(event.pointerId);
    handle[held].focus({ preventScroll: true });
    event.preventDefault(); // the browser would move the focus away
    drag(event);
  }
  function drag(event) { if (held) set(held, snap(pointed(event))); }
  function release() { held = null; }

  function show() {
    const [symmetric, kind] = schemes[scheme.value], dtype = { bits: Number(bits.value), ...kind }, [min, max] = codeRange(dtype);
    const choose = (from, to) => chooseQParams(from, to, dtype, symmetric), qp = choose(low, high), split = errorSplit(values, qp), total = split.clipping + split.rounding;
    const from = Math.min(low, 0), to = Math.max(high, 0), lowest = dequantize(min, qp), highest = dequantize(max, qp);
    for (const end of ends) {
      const v = end === "low" ? low : high;
      if (document.activeElement !== field[end] || !problem && Number(field[end].value.replaceAll("−", "-").replaceAll(",", ".")) !== v) field[end].value = minus(Number(v.toPrecision(6)));
      field[end].setAttribute("aria-invalid", String(problem !== "" && document.activeElement === field[end]));
      handle[end].setAttribute("transform", `translate(${X(v).toFixed(1)} 0)`);
      for (const [name, value] of [["valuemin", view.from], ["valuemax", view.to], ["valuenow", v]]) handle[end].setAttribute(`aria-${name}`, Number(value.toPrecision(6)));
    }
    const widened = from !== low ? "low" : to !== high ? "high" : "";
    const typeName = `${dtype.signed ? "INT" : "UINT"}${dtype.bits}${dtype.narrow ? " narrow" : ""}`;
    if (problem) out.replaceChildren(h("small", {}, problem));
    else {
      const zero = symmetric ? "" : `, zero point ${minus(qp.zeroPoint)}`;
      out.replaceChildren(total ? `SQNR ${sqnr(values, qp).toFixed(2).replace("-", "−")} dB` : "exact", h("small", {}, ` ${typeName}, scale ${significant(qp.scale)}${zero}${widened ? "; widened to hold 0" : ""}`));
    }
    const share = part => total ? ` (${(100 * part / total).toFixed(1)} % of the total)` : "";
    facts.replaceChildren(
      ...fact("Range", `${significant(low)} to ${significant(high)}${widened ? `, widened to ${significant(from)} to ${significant(to)}: zero needs a code` : ""}`),
      ...fact("Scale", significant(qp.scale, 6)), ...fact("Zero point", minus(qp.zeroPoint)),
      ...fact("Levels", `${max - min + 1}, codes ${minus(min)} to ${minus(max)}, values ${significant(lowest)} to ${significant(highest)}`),
      ...fact("Clipped", `${split.clipped} of ${values.length} values, ${significant(100 * split.clipped / values.length, 3)} %`),
      ...fact("Clipping error", significant(split.clipping) + share(split.clipping)), ...fact("Rounding error", significant(split.rounding) + share(split.rounding)),
      ...fact("Total error", `${significant(total)}, mean squared`));
    drawHistogram(qp, min, max, from, to);
    drawCurves(choose, from, to, split);
  }
  function drawHistogram(qp, min, max, from, to) {
    const top = Math.max(...bars), width = (right - left) / bars.length;
    const inside = [], outside = [], ticks = [], lines = [];
    bars.forEach((count, i) => {
      const height = tall * Math.sqrt(count / top), centre = view.from + (i + 0.5) / bars.length * (view.to - view.from), code = unclipped(centre, qp);
      if (count) (code < min || code > max ? outside : inside).push(`M${left + i * width} ${floor}v${-height.toFixed(1)}h${width - 0.5}V${floor}z`);
    });
    for (let code = min; code <= max; code++) {
      const v = dequantize(code, qp);
      if (v < view.from || v > view.to) continue;
      ticks.push(`M${X(v).toFixed(1)} ${floor}v${code === qp.zeroPoint ? 14 : 9}`);
      if (max - min < 64) lines.push(`M${X(v).toFixed(1)} ${floor}V30`);
    }
    const apart = nice((view.to - view.from) / 6), numbers = [];
    for (let k = Math.ceil(view.from / apart); k * apart <= view.to; k++) numbers.push(h("text", { x: X(k * apart), y: 230, "text-anchor": "middle" }, significant(k * apart)));
    picture.setAttribute("aria-label", `Histogram of ${values.length} values, ${data.value}, with ${max - min + 1} levels and the two ends of the clipping range`);
    back.replaceChildren(
      h("rect", { class: "qc-band", x: X(from), y: 30, width: X(to) - X(from), height: floor - 30 }),
      path("qc-bar", inside.join("")), path("qc-bar-clipped", outside.join("")), path("qc-level-line", lines.join("")),
      h("line", { class: "qc-axis", x1: left, x2: right, y1: floor, y2: floor }), path("qc-level", ticks.join("")), ...numbers);
  }
  function drawCurves(choose, from, to, split) {
    const start = 66, roof = 34, ground = 172, widest = view.to - view.from;
    const [a, b] = to > from ? [from / (to - from), to / (to - from)] : isSymmetric() ? [-0.5, 0.5] : [0, 1]; // ends of a range one wide
    const points = Array.from({ length: 108 }, (_, i) => {
      const width = widest * (i + 1) / 108, { clipping, rounding } = errorSplit(values, choose(a * width, b * width));
      return { width, clipping, rounding, total: clipping + rounding };
    });
    const best = points.reduce((p, q) => q.total < p.total ? q : p);
    const high10 = Math.ceil(Math.log10(Math.max(...points.map(p => p.total)))), low10 = Math.floor(Math.log10(best.total / 20));
    const U = width => start + Math.min(width, widest) / widest * (right - start), V = v => ground - (Math.log10(v) - low10) / (high10 - low10) * (ground - roof);
    const seen = v => v >= 10 ** low10 && v <= 10 ** high10;
    const curve = name => points.map((p, i) => seen(p[name]) ? `${i && seen(points[i - 1][name]) ? "L" : "M"}${U(p.width).toFixed(1)} ${V(p[name]).toFixed(1)}` : "").join("");
    const here = { ...split, total: split.clipping + split.rounding }, at = U(to - from), names = ["clipping", "rounding", "total"], apart = nice(widest / 5), marks = [];
    for (let k = 0; k * apart <= widest; k++) marks.push(h("text", { x: U(k * apart), y: ground + 25, "text-anchor": "middle" }, significant(k * apart)));
    const tens = Math.ceil((high10 - low10) / 3); // as many powers of ten as there is room for
    for (let ten = low10; ten <= high10; ten += tens) marks.push(h("text", { x: start - 8, y: V(10 ** ten) + 5, "text-anchor": "end" }, significant(10 ** ten)), h("line", { class: "qc-grid", x1: start, x2: right, y1: V(10 ** ten), y2: V(10 ** ten) }));
    curves.setAttribute("aria-label", `Mean squared errors against the width of the range, both ends moved in proportion. The total is least, ${significant(best.total, 3)}, near a width of ${significant(best.width, 2)}; here the width is ${significant(to - from, 3)} and the total ${significant(here.total, 3)}.`);
    curves.replaceChildren(
      ...marks, h("line", { class: "qc-axis", x1: start, x2: right, y1: ground, y2: ground }), h("line", { class: "qc-axis", x1: at, x2: at, y1: ground, y2: roof }),
      ...names.map(name => path(`qc-curve qc-${name}`, curve(name))),
      h("circle", { class: "qc-least", cx: U(best.width), cy: V(best.total), r: 7 }),
      ...names.filter(name => seen(here[name])).map(name => h("circle", { class: `qc-point qc-${name}`, cx: at, cy: V(here[name]), r: 5 })),
      ...names.flatMap((name, i) => [path(`qc-curve qc-${name}`, `M${start + i * 150} 12h28`), h("text", { class: `qc-name qc-${name}`, x: start + 34 + i * 150, y: 17 }, name)]));
  }

  const label = (title, input) => h("label", {}, title, input), button = (title, onclick) => h("button", { type: "button", onclick }, title);
  root.replaceChildren(
    h("div", { class: "qc-controls" }, label("Data", data), label("Bits", bits), label("Scheme", scheme)),
    h("div", { class: "qc-controls" }, label("Low end", field.low), label("High end", field.high),
      h("div", { class: "qc-buttons", role: "group", "aria-label": "Set the range to" }, button("min-max", minMax), button("least error", least))),
    h("p", { class: "qc-caption" }, "Drag the ends of the range. A bar is as high as the square root of its count; clipped values are orange, ticks are the levels."),
    picture, out, h("p", { class: "qc-caption" }, "Mean squared error against the width of the range, both ends moved in proportion. The ring marks the least total."), curves, facts);
  changeData();
}

/* ---------- start ---------- */

window.quantcourse = { formats, encode, decode, classify, split, ulp, inFull, inShort, integerAndExponent, rational, scientific, fixedEncode, fixedDecode,
  codeRange, chooseQParams, quantize, dequantize, errorSplit, sqnr, leastError, samples, sample };
const explorers = { "float-bits": floatBits, "fixed-point": fixedPoint, "clip-range": clipRange };
for (const root of document.querySelectorAll(".qc-explorer[data-explorer]")) explorers[root.dataset.explorer]?.(root);
// Folded solutions open for printing.
addEventListener("beforeprint", () => document.querySelectorAll("details.admonition").forEach(box => { box.open = true; }));
})();
