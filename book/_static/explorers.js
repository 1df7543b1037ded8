/* Interactive figures of the course: plain JavaScript, no library, no network, also from file://.
 *
 * In a page, <div class="qc-explorer" data-explorer="NAME"> holds a text for readers without JavaScript;
 * this script replaces it by the figure. The arithmetic is exported as window.quantcourse, and the browser
 * tests compare it with the Python package, code by code.
 *
 *   float-bits    flip the bits of a float, or type a number and see it rounded
 *   fixed-point   choose a Q-format, move a number, compare saturation with wrap-around
 *   clip-range    drag a clipping range over a histogram, weigh clipping against rounding error
 *   multiplier    split a multiplier into an integer and a shift, multiply by it in three ways of rounding
 *   thresholds    six observers on one histogram, and what one outlier does to each
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

/* ---------- the integer multiplier ---------- */

/** x >= 0 as [m0, shift], near m0 * 2**(shift - 31), as quantcourse.integer; null beyond 2**30. Fewer bits leave zeros. */
function quantizeMultiplier(x, bits = 32) {
  let shift = x === 0 ? 0 : leading(x) + 1;
  if (x === 0 || shift < -32) return [0n, 0];
  if (shift > 30) return null;
  let m0 = BigInt(Math.floor(x * power(-shift) * 2 ** (bits - 1) + 0.5)) << BigInt(32 - bits);
  if (m0 === 1n << 31n) { m0 >>= 1n; shift += 1; } // the fraction was rounded up to one
  return shift > 30 ? null : shift < -31 ? [0n, 0] : [m0, shift];
}

const fitsInt32 = n => n === BigInt.asIntN(32, n);

/** acc * m0 * 2**(shift - 31) as an integer: every [operation, value], the result last; BigInt, but for "float". */
const multiplySteps = {
  "double": (acc, m0, shift) => {
    const up = BigInt(Math.max(shift, 0)), down = BigInt(Math.max(-shift, 0)), list = [];
    if (up) list.push([`acc × 2^${up}`, acc << up]);
    const product = (acc << up) * m0, near = product + (1n << 30n), high = near >> 31n;
    list.push([`${up ? "this" : "acc"} × M0`, product], ["+ 2^30", near], [">> 31", high]);
    if (!down) return list;
    const half = 1n << (down - 1n), away = high < 0n ? -half : half; // half away from zero
    const size = (high < 0n ? -high : high) + half >> down;
    list.push([`${away < 0n ? "−" : "+"} 2^${down - 1n}`, high + away], [`/ 2^${down}, toward zero`, high < 0n ? -size : size]);
    return list;
  },
  "single": (acc, m0, shift) => {
    const t = BigInt(31 - shift), product = acc * m0, near = product + (1n << (t - 1n));
    return [["acc × M0", product], [`+ 2^${t - 1n}`, near], [`>> ${t}`, near >> t]];
  },
  "float": (acc, m0, shift) => {
    const a = Math.fround(Number(acc)), m = Math.fround(Number(m0) * power(shift - 31)), product = Math.fround(a * m);
    return [["acc in FP32", a], ["M in FP32", m], ["product in FP32", product], ["ties to even", roundEven(product) + 0]];
  },
};

/** acc times the multiplier as quantcourse.integer rounds it; null where INT32 is left. */
function multiplyByQuantizedMultiplier(acc, m0, shift, rounding = "double") {
  const steps = multiplySteps[rounding](acc, m0, shift), result = BigInt(steps.at(-1)[1]);
  return fitsInt32(result) && (rounding !== "double" || fitsInt32(acc << BigInt(Math.max(shift, 0)))) ? result : null;
}

/* ---------- observers ---------- */

const outliersAmong = (n, share, scale, far) => [...normalQuantiles(n - share).map(z => scale * z), ...normalQuantiles(share).map(z => far * z)];
const laplaceQuantile = p => p < 0.5 ? Math.log(2 * p) : -Math.log(2 * (1 - p));

// 32,000 values each, observed in 16 batches of 2000
const observed = 32000, batchCount = 16, outlierAt = 16008;
const activations = {
  "bell curve": () => normalQuantiles(observed),
  "bell curve with outliers": () => outliersAmong(observed, 320, 1, 5),
  "heavy tails": () => Array.from({ length: observed }, (_, i) => laplaceQuantile((i + 0.5) / observed)),
  "after a ReLU": () => normalQuantiles(observed).map(z => Math.max(0, z)),
  "after a GELU": () => normalQuantiles(observed).map(z => 2 * z * normalBelow(2 * z)),
  "lognormal": () => normalQuantiles(observed).map(Math.exp),
};
const recorded = {};

/** The values of a data set in float32, with one of them, in the ninth batch, put at `outlier`. */
function activation(name, outlier = null) {
  const values = recorded[name] ??= Float32Array.from(activations[name]());
  if (outlier === null) return values;
  const changed = values.slice();
  changed[outlierAt] = outlier;
  return changed;
}

/** Every sixteenth value from the first on, from the second on, and so on. */
const batches = values => Array.from({ length: batchCount }, (_, b) => values.filter((_, i) => i % batchCount === b));

function ends(values) {
  let low = Infinity, high = -Infinity;
  for (const x of values) { low = Math.min(low, x); high = Math.max(high, x); }
  return [low, high];
}

/** Counts of the zeros, then of the magnitudes in bins that hold their upper edge: the first batch fixes the width. */
function magnitudes(parts, bins = 2048) {
  const [low, high] = ends(parts[0]), width = Math.fround(Math.max(-low, high) / bins), counts = Array(1 + bins).fill(0);
  for (const values of parts) for (const x of values) {
    const slot = Math.ceil(Math.fround(Math.abs(x) / width));
    while (counts.length <= slot) counts.push(0); // a larger value appends bins
    counts[slot] += 1;
  }
  return { counts, width };
}

/** Sums of the first 0, 1, 2, ... values. */
function cumulated(values) {
  const sums = new Float64Array(values.length + 1);
  for (let i = 0; i < values.length; i++) sums[i + 1] = sums[i] + values[i];
  return sums;
}

// From counts as of `magnitudes` each of these makes a threshold, in widths of a bin, as quantcourse.calibrate.

/** The magnitude that p percent of the values do not exceed, between the upper edges of two bins. */
function percentileEdge(counts, p) {
  const below = cumulated(counts).subarray(1), last = below.at(-1) - 1, h = last * p / 100, rank = Math.floor(h);
  const [edge, following] = [rank, Math.min(rank + 1, last)].map(r => below.findIndex(count => count > r));
  return edge + (h - rank) * (following - edge);
}

/** Of i bins, averaged in `levels` groups, how far they are from the same bins with the tail in the last; of the least, the last i from `first`. */
function entropyEdge(counts, levels, first = 128) {
  const c = Float64Array.from(counts.slice(1)), xLogX = x => x > 0 ? x * Math.log(x) : 0;
  c[0] = c[1]; // zeros are exact anyway, and there may be many
  const below = cumulated(c), filled = cumulated(c.map(x => x > 0 ? 1 : 0)), self = cumulated(c.map(xLogX)), total = below[c.length];
  const divergences = [];
  for (let i = first; i <= c.length; i++) {
    const tail = total - below[i];
    let cross = 0, logShare = 0, from = 0;
    for (let level = 1; level <= levels; level++) {
      const to = Math.ceil(i * level / levels), sum = below[to] - below[from];
      if (to === from) continue; // more levels than bins: the tail joins the last that has one
      logShare = sum > 0 ? Math.log(sum / (filled[to] - filled[from])) : 0;
      cross += sum * logShare;
      from = to;
    }
    const lost = below[i] === 0 || tail > 0 && c[i - 1] === 0; // no share for what is counted
    divergences.push(lost ? Infinity : (self[i - 1] + xLogX(c[i - 1] + tail) - cross - tail * logShare) / total + Math.log(below[i] / total));
  }
  const least = divergences.reduce((a, b) => Math.min(a, b));
  return first + divergences.findLastIndex(d => d <= least + 1e-12);
}

/** The edge with the least squared error, of values spread evenly in their bins. */
function mseEdge(counts, levels) {
  const c = counts.slice(1), below = cumulated(c), table = cumulated(c.map((count, k) => below[k] + count / 2)), total = below[c.length];
  const sum = term => c.reduce((all, count, k) => all + count * term(k), 0), first = sum(k => k + 0.5), second = sum(k => k * (k + 1) + 1 / 3);
  let best = 1, least = Infinity;
  for (let i = 1; i <= c.length; i++) {
    const step = i / (levels - 1);
    let saved = 0; // by the values that go to a level below the top
    for (let j = 1; j < levels; j++) {
      const u = step * (j - 0.5), k = Math.floor(u), f = u - k;
      saved += table[k] + f * (below[k] + c[k] * f / 2);
    }
    const error = Math.max(0, (second - 2 * i * first + i * i * total - 2 * step * saved) / total);
    if (error < least) { least = error; best = i; }
  }
  return best;
}

/** Codes for a step, the best step for the codes, and so on: MNN's start, and a bin counts as its centre. */
function admmEdge(counts, levels) {
  const c = counts.slice(1);
  let step = (c.findLastIndex(count => count > 0) + 1) / (1.25 * (levels - 1));
  for (let turn = 0, before; turn < 1000 && step !== before; turn++) {
    let up = 0, down = 0;
    c.forEach((count, k) => {
      const q = Math.min(levels - 1, roundEven((k + 0.5) / step));
      up += count * (k + 0.5) * q;
      down += count * q * q;
    });
    before = step;
    step = up / down;
  }
  return step * (levels - 1);
}

/** The threshold of each observer after all batches: the larger end of its range. */
function thresholds(values, levels, p) {
  const parts = batches(values), { counts, width } = magnitudes(parts), larger = ([low, high]) => Math.max(-low, high), largest = larger(ends(values));
  const average = parts.map(ends).reduce((before, now) => now.map((x, i) => Math.fround(before[i] + Math.fround(Math.fround(0.01) * Math.fround(x - before[i])))));
  const at = edge => Math.fround(Math.min(edge * width, largest));
  return { "min-max": largest, "moving average": larger(average), "percentile": at(percentileEdge(counts, p)),
    "entropy": at(entropyEdge(counts, levels)), "MSE": at(mseEdge(counts, levels)), "ADMM": at(admmEdge(counts, levels)) };
}

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

function multiplier(root) {
  const ways = {
    "double": ["Rounded twice", "gemmlowp: the high half of the product, then a shift"],
    "single": ["Rounded once", "later TensorFlow Lite: one shift by 31 − shift bits"],
    "float": ["In FP32", "ONNX Runtime: a product of floats"],
  };
  const examples = [["a layer", "0.0072474273", "12345"], ["one half", "0.5", "5"], ["one quarter", "0.25", "1"], ["above one", "1.5", "-20"],
    ["rounded up to one", "0.99999999999", "1000"], ["a large sum", "0.0123456789", "2000000001"], ["too small", "1e-10", "2147483647"]];
  const entry = (value, more) => h("input", { type: "text", inputmode: "text", autocomplete: "off", spellcheck: "false", value, oninput: show, ...more });
  const number = entry(root.dataset.multiplier || "0.0072474273"), sum = entry(root.dataset.accumulator || "12345");
  const kept = h("input", { type: "range", min: "8", max: "32", step: "1", value: "32", oninput: show }), width = h("span");
  const out = h("output", { "aria-live": "polite", class: "qc-out" }), facts = h("dl", { class: "qc-facts" });
  const bits = h("div", { class: "qc-bits", role: "img" }), cards = h("div", { class: "qc-ways" });

  const plain = input => input.value.trim().replaceAll("−", "-").replaceAll("_", "").replaceAll(",", ".");
  const raised = text => text.split(/(\^\d+)/).map(part => part.startsWith("^") ? h("sup", {}, part.slice(1)) : part);
  const powerOfTwo = e => ["2", h("sup", {}, minus(e))];
  /** n / d with d a power of ten, in full. */
  function tenths(n, d) {
    const places = String(d).length - 1, digits = String(n < 0n ? -n : n).padStart(places + 1, "0");
    const text = places ? `${digits.slice(0, -places)}.${digits.slice(-places)}`.replace(/\.?0+$/, "") : digits;
    return (n < 0n ? "−" : "") + text;
  }

  function read() { // { problem, at } or what was typed
    const text = plain(number), exact = rational(text), x = Number(text);
    if (!exact) return { problem: "M is not a number.", at: number };
    if (x < 0 || exact[0] < 0n) return { problem: "M is a quotient of scales: it is not negative.", at: number };
    if (!quantizeMultiplier(x)) return { problem: "M is too large: it has to be below 2^30.", at: number };
    const digits = plain(sum);
    if (!/^[+-]?\d{1,20}$/.test(digits)) return { problem: "The accumulator is not an integer.", at: sum };
    const acc = BigInt(digits.replace("+", ""));
    if (!fitsInt32(acc)) return { problem: "The accumulator does not fit INT32: −2147483648 to 2147483647.", at: sum };
    return { x, exact, acc };
  }
  function show() {
    const got = read(), size = Number(kept.value);
    for (const input of [number, sum]) input.setAttribute("aria-invalid", String(got.at === input));
    width.textContent = `Bits of M0: ${size}`;
    kept.setAttribute("aria-valuetext", `${size} bits`);
    if (got.problem) return out.replaceChildren(h("small", {}, got.problem));
    const { x, exact: [n, d], acc } = got, [m0, shift] = quantizeMultiplier(x, size), names = Object.keys(ways);
    const results = names.map(name => multiplyByQuantizedMultiplier(acc, m0, shift, name)), agree = results.every(r => r === results[0]);
    const said = r => r === null ? "overflow" : minus(r);
    out.replaceChildren(`M0 = ${m0}, shift ${minus(shift)}`, h("small", {}, agree ? ` the product is ${said(results[0])} in all three ways` : ` the ways differ: ${results.map(said).join(", ")}`));
    drawBits(m0, size);

    // M as typed is n / d; M0 * 2**(shift - 31) is up / down.
    const [up, down] = shift >= 31 ? [m0 << BigInt(shift - 31), 1n] : [m0, 1n << BigInt(31 - shift)], off = up * d - n * down;
    const fraction = Number((x * power(-shift)).toPrecision(12));
    facts.replaceChildren(
      ...m0 === 0n ? fact("M", x === 0 ? "zero: M0 and shift are 0" : h("span", {}, "below ", ...powerOfTwo(-32), ": M0 and shift are 0, every product is 0"))
        : [...fact("M", `${minus(plain(number))} = ${decimal(fraction)} × `, ...powerOfTwo(shift)),
          ...fact("M0", `round(${decimal(fraction)} × `, ...powerOfTwo(size - 1), ")", ...size < 32 ? [" × ", ...powerOfTwo(32 - size)] : [], ` = ${m0}`)],
      ...fact("In use", `${m0} × `, ...powerOfTwo(shift - 31), " = ", foldable(inFull(m0, shift - 31))),
      ...fact("Error of M0", ...off === 0n ? ["none"] : [`${scientific(off, n * down)} of M`, ...m0 ? [", at most ", ...powerOfTwo(1 - size), ` = ${scientific(1n, 1n << BigInt(size - 1))}`] : []]),
      ...fact("Exact product", `${minus(acc)} × ${minus(plain(number))} = `, foldable(tenths(acc * n, d))));
    cards.replaceChildren(...names.map((name, i) => card(name, results[i], !agree && results.filter(r => r === results[i]).length === 1, acc, m0, shift, acc * n, d)));
  }
  function drawBits(m0, size) {
    const digits = m0.toString(2).padStart(32, "0"), still = (d, i) => h("span", { class: `qc-bit qc-still${i >= size ? " qc-dropped" : ""}`, "data-on": d }, d);
    const byte = (from, to) => h("span", { class: "qc-byte" }, ...[...digits.slice(from, to)].map((d, i) => still(d, from + i)));
    bits.setAttribute("aria-label", `M0 in binary: ${digits}`);
    bits.replaceChildren(
      h("div", { class: "qc-part qc-sign" }, h("span", {}, "Sign"), h("span", { class: "qc-bytes" }, byte(0, 1))),
      h("div", { class: "qc-part qc-fraction" }, h("span", {}, `M0 as a fraction, Q0.${size - 1}`), h("span", { class: "qc-bytes" }, byte(1, 8), byte(8, 16), byte(16, 24), byte(24, 32))));
  }
  /** One way of rounding, step by step, and how far its result is from the product n / d; marked where it stands alone. */
  function card(name, result, alone, acc, m0, shift, n, d) {
    const [title, origin] = ways[name], steps = multiplySteps[name](acc, m0, shift);
    const shown = v => typeof v === "bigint" ? minus(v) : decimal(v);
    const off = result === null ? null : result * d - n, far = off === null ? "" : off < 0n ? -off : off;
    const verdict = result === null ? "This leaves INT32: an error." : off === 0n ? "exact"
      : `${2n * far < d ? "the nearest integer" : 2n * far === d ? "a tie" : "not the nearest integer"}, off by ${scientific(off, d)}`;
    const marked = alone || result === null || 2n * far > d;
    return h("div", { class: `qc-way${marked ? " qc-off" : ""}`, role: "group", "aria-label": title },
      h("p", {}, h("strong", {}, title), h("br"), h("small", {}, origin)),
      h("dl", {}, ...steps.flatMap(([what, value]) => [h("dt", {}, ...raised(what)), h("dd", {}, shown(value))])),
      h("p", {}, h("small", {}, verdict)));
  }

  const label = (title, input, more = {}) => h("label", more, title, input);
  root.replaceChildren(
    h("div", { class: "qc-controls" }, label("Multiplier M", number, { class: "qc-wide" }), label("Accumulator", sum, { class: "qc-wide" }), label(width, kept, { class: "qc-wide" })),
    h("div", { class: "qc-buttons", role: "group", "aria-label": "Examples" }, ...examples.map(([title, m, acc]) =>
      h("button", { type: "button", onclick: () => { number.value = m; sum.value = acc; kept.value = 32; show(); } }, title))),
    out, bits, facts, cards);
  show();
}

function thresholdLines(root) {
  const names = ["min-max", "moving average", "percentile", "entropy", "MSE", "ADMM"], left = 64, right = 506, row = 23, tall = 150;
  const significant = (v, digits = 4) => v && Math.abs(v) < 1e-3 ? decimal(Number(v.toPrecision(digits)).toExponential()) : decimal(Number(v.toPrecision(digits)));
  const nice = v => { const ten = 10 ** Math.floor(Math.log10(v)); return [1, 2, 5, 10].find(m => m * ten >= v) * ten; };
  const select = (values, chosen, onchange) => h("select", { onchange }, ...values.map(v => h("option", { value: v, selected: String(v) === chosen }, v)));
  const data = select(Object.keys(activations), root.dataset.sample || "bell curve with outliers", changeData), bits = select([3, 4, 5, 6, 7, 8], root.dataset.bits || "4", compute);
  const percent = h("input", { type: "text", inputmode: "decimal", autocomplete: "off", size: "7", value: root.dataset.percentile || "99.9", oninput: type });
  const logarithmic = h("input", { type: "checkbox", checked: true, onchange: draw });
  const outlier = h("input", { type: "range", min: "10", max: "50", step: "1", value: "10", oninput: compute }), outlierText = h("span");
  const picture = h("svg", { role: "img" }), out = h("output", { "aria-live": "polite", class: "qc-out" });
  const shown = {}, cells = {}, body = h("tbody");
  for (const [i, name] of names.entries()) {
    shown[name] = h("input", { type: "checkbox", checked: true, onchange: draw });
    cells[name] = ["threshold", "clipped", "error", "sqnr"].map(() => h("td", { class: "text-right" }));
    const key = h("svg", { class: "qc-key", viewBox: "0 0 30 10", "aria-hidden": "true" }, h("path", { class: `qc-threshold qc-observer-${i}`, d: "M0 5h30" }));
    body.append(cells[name].row = h("tr", {}, h("th", { scope: "row" }, h("label", { class: "qc-check" }, shown[name], key, name)), ...cells[name]));
  }
  let values, largest, p = Number(percent.value), found, calmly = {};

  function changeData() { outlier.value = 10; compute(); }
  function type() {
    const text = percent.value.trim().replaceAll(",", "."), v = Number(text);
    const valid = rational(text) && v > 0 && v <= 100;
    percent.setAttribute("aria-invalid", String(!valid));
    if (!valid) return out.replaceChildren(h("small", {}, "The percentile lies above 0 and is 100 at most."));
    p = v;
    compute();
  }
  function compute() {
    const calm = activation(data.value), [min, max] = ends(calm), times = Number(outlier.value) / 10, unsigned = min >= 0;
    const size = Number(bits.value), levels = 2 ** (unsigned ? size : size - 1), dtype = { bits: size, signed: !unsigned, narrow: !unsigned };
    largest = Math.max(-min, max);
    const key = [data.value, levels, p].join();
    if (calmly.key !== key) calmly = { key, before: thresholds(calm, levels, p) };
    const { before } = calmly;
    const far = Math.fround(-min < max ? times * largest : -times * largest); // on the side that reaches farther
    values = times > 1 ? activation(data.value, far) : calm;
    const now = times > 1 ? thresholds(values, levels, p) : before, power = values.reduce((sum, x) => sum + x * x, 0) / values.length;
    found = names.map(name => {
      const T = now[name], { clipping, rounding, clipped } = errorSplit(values, chooseQParams(unsigned ? 0 : -T, T, dtype, !unsigned));
      return { name, T, moved: T / before[name] - 1, clipped, error: clipping + rounding, sqnr: 10 * Math.log10(power / (clipping + rounding)) };
    });
    largest = Math.max(largest, Math.abs(far));
    const best = found.reduce((a, b) => b.error < a.error ? b : a), percentage = v => `${v < 0 ? "−" : "+"}${significant(Math.abs(100 * v), 2)} %`;
    for (const { name, T, moved, clipped, error, sqnr } of found) {
      const [threshold, ...others] = cells[name], texts = [significant(100 * clipped / values.length, 3), significant(error, 3), sqnr.toFixed(2).replace("-", "−")];
      threshold.replaceChildren(significant(T), ...times > 1 ? [h("small", {}, Math.abs(moved) < 5e-4 ? "stays" : percentage(moved))] : []);
      others.forEach((cell, i) => cell.replaceChildren(texts[i]));
      cells[name].row.className = name === best.name ? "qc-best" : "";
      if (name === best.name) others[2].append(h("small", {}, "best"));
    }
    outlierText.textContent = times > 1 ? `One outlier at ${significant(far)}, ${significant(times)} times the largest magnitude` : "One outlier: none";
    outlier.setAttribute("aria-valuetext", times > 1 ? `${significant(far)}, ${significant(times)} times the largest magnitude` : "none");
    const movers = found.filter(f => Math.abs(f.moved) >= 5e-4), kind = `${unsigned ? "UINT" : "INT"}${size}, ${levels} magnitudes`;
    out.replaceChildren(`Least error: ${best.name}, threshold ${significant(best.T)}`, h("small", {}, ` SQNR ${best.sqnr.toFixed(2).replace("-", "−")} dB, ${kind}`,
      times > 1 ? `; moved: ${movers.map(f => `${f.name} ${percentage(f.moved)}`).join(", ") || "none"}` : ""));
    draw();
  }
  function draw() {
    const lines = found.filter(({ name }) => shown[name].checked).sort((a, b) => b.T - a.T), to = 1.03 * Math.max(largest, ...lines.map(line => line.T));
    const ceiling = 10 + row * lines.length, floor = ceiling + tall, bars = Array(88).fill(0), X = v => left + v / to * (right - left);
    for (const x of values) bars[Math.floor(Math.abs(x) / to * bars.length)] += 1;
    const top = Math.max(...bars), Y = count => floor - tall * (logarithmic.checked ? Math.log(2 * count) / Math.log(2 * top) : count / top); // half a count is the floor
    const width = (right - left) / bars.length, marks = [], apart = nice(to / 5);
    for (let k = 0; k * apart <= to; k++) marks.push(h("text", { x: X(k * apart), y: floor + 24, "text-anchor": "middle" }, significant(k * apart)));
    const counts = logarithmic.checked ? [1, 10, 100, 1000, 10000] : [1, 2, 3].map(k => k * nice(top / 3));
    for (const count of counts) if (count <= top) marks.push(h("line", { class: "qc-grid", x1: left, x2: right, y1: Y(count), y2: Y(count) }), h("text", { x: left - 8, y: Y(count) + 5, "text-anchor": "end" }, count));
    const labels = lines.map(({ name, T }, i) => { // to the left where there is room: no line comes in between
      const before = X(T) > 10 * name.length + 10;
      return h("text", { class: `qc-name qc-observer-${names.indexOf(name)}`, x: X(T) + (before ? -6 : 6), y: 22 + i * row, "text-anchor": before ? "end" : "start" }, name);
    });
    picture.setAttribute("viewBox", `0 0 520 ${floor + 32}`);
    picture.setAttribute("aria-label", `Histogram of ${values.length} magnitudes, ${data.value}, with the thresholds ${lines.map(({ name, T }) => `${name} ${significant(T, 3)}`).join(", ")}`);
    picture.replaceChildren(...marks,
      h("path", { class: "qc-bar", d: bars.map((count, i) => count ? `M${(left + i * width).toFixed(1)} ${floor}V${Y(count).toFixed(1)}h${(width - 0.5).toFixed(1)}V${floor}z` : "").join("") }),
      h("line", { class: "qc-axis", x1: left, x2: right, y1: floor, y2: floor }),
      ...lines.map(({ name, T }, i) => h("path", { class: `qc-threshold qc-observer-${names.indexOf(name)}`, d: `M${X(T).toFixed(1)} ${8 + i * row}V${floor}` })), ...labels);
  }

  const label = (title, input, more = {}) => h("label", more, title, input), column = title => h("th", { scope: "col", class: title === "Observer" ? "" : "text-right" }, title);
  root.replaceChildren(
    h("div", { class: "qc-controls" }, label("Data", data), label("Bits", bits), label("Percentile", percent), h("label", { class: "qc-check" }, logarithmic, "logarithmic counts")),
    label(outlierText, outlier, { class: "qc-field" }),
    h("p", { class: "qc-caption" }, `How often each magnitude occurs, and where each observer puts the threshold. The ${observed} values come in ${batchCount} batches; the outlier is in the ninth.`), picture, out,
    h("div", { class: "qc-scroll", role: "region", tabindex: "0", "aria-label": "Thresholds and errors" }, h("table", { class: "qc-observers" },
      h("thead", {}, h("tr", {}, ...["Observer", "Threshold", "Clipped, %", "MSE", "SQNR, dB"].map(column))), body)));
  changeData();
}

/* ---------- start ---------- */

window.quantcourse = { formats, encode, decode, classify, split, ulp, inFull, inShort, integerAndExponent, rational, scientific, fixedEncode, fixedDecode,
  codeRange, chooseQParams, quantize, dequantize, errorSplit, sqnr, leastError, samples, sample,
  quantizeMultiplier, multiplySteps, multiplyByQuantizedMultiplier,
  activations, activation, batches, magnitudes, thresholds };
const explorers = { "float-bits": floatBits, "fixed-point": fixedPoint, "clip-range": clipRange, "multiplier": multiplier, "thresholds": thresholdLines };
for (const root of document.querySelectorAll(".qc-explorer[data-explorer]")) explorers[root.dataset.explorer]?.(root);
// Folded solutions open for printing.
addEventListener("beforeprint", () => document.querySelectorAll("details.admonition").forEach(box => { box.open = true; }));
})();
