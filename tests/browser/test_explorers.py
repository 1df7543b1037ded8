"""The interactive figures: the same numbers as the Python package, by keyboard, and a text without JavaScript."""

import fractions
import itertools
import json
import math
from collections.abc import Callable, Iterator
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Page

from conftest import AXE, RULES, RUN_AXE, SITE, Opener
from quantcourse import affine, calibrate, integer, metrics
from quantcourse.affine import IntType, QParams
from quantcourse.fixed import QFormat
from quantcourse.floats import FloatFormat, formats

FORMATS = {f.name: f for f in formats()}


@cache
def page_with(explorer: str) -> str:
    for page in sorted(SITE.glob("book/*.html")):
        if f'data-explorer="{explorer}"' in page.read_text("utf8"):
            return f"book/{page.name}"
    pytest.fail(f"no page holds the explorer {explorer}", pytrace=False)


def same(a: float, b: float) -> bool:
    """Equal, with NaN equal to NaN and the zeros told apart."""
    return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))


def codes_of(form: FloatFormat, count: int = 4000) -> list[int]:
    """All codes of a small format; of a wide one random ones and those at the borders."""
    if form.bits <= 16:
        return list(range(2**form.bits))
    rng = np.random.default_rng(7)
    rest, fraction = 2 ** (form.bits - 1), 2**form.fraction_bits
    borders = [
        0,
        1,
        2,
        fraction - 1,
        fraction,
        fraction + 1,
        rest - fraction - 1,
        rest - fraction,
        rest - fraction + 1,
        rest - 1,
    ]
    # A uniform code is rarely subnormal: add some small and some large ones.
    drawn = [int(c) for c in rng.integers(0, 2**63, count, dtype=np.uint64) >> np.uint64(64 - form.bits)]
    edges = [int(c) for c in rng.integers(0, fraction, count // 8)]
    positive = borders + drawn + edges + [rest - 1 - e for e in edges]
    return [*positive, *(rest + c for c in positive if c < rest)]


@pytest.fixture(scope="module")
def engine(opener: Opener) -> Iterator[Page]:
    """One page for all tests that only compute."""
    page = opener(page_with("float-bits"), width=1000).page
    yield page
    page.close()


def test_formats_agree(engine: Page) -> None:
    page = engine
    ours = {f.name: [f.exponent_bits, f.fraction_bits, f.bias, f.specials] for f in formats()}
    assert page.evaluate("quantcourse.formats") == ours


@pytest.mark.parametrize("form", formats(), ids=lambda f: f.name)
def test_decode_class_fields_and_encode(form: FloatFormat, engine: Page) -> None:
    """Every code: its value, its fields, its class, its gap, and back to the same code."""
    page = engine
    codes = codes_of(form)
    # One string there and one back: thousands of single values would take longer to pass than to compute.
    report = page.evaluate(
        """([name, codes]) => codes.split(" ").map(text => {
          const q = quantcourse, code = BigInt(text), x = q.decode(name, code), f = q.split(name, code);
          const value = Object.is(x, -0) ? "-0" : String(x);
          return [value, f.sign, f.exponent, f.fraction, q.classify(name, code), q.ulp(name, x), q.encode(name, x)].join(" ");
        }).join("\\n")""",
        [form.name, " ".join(map(str, codes))],
    )
    values = form.decode(np.array(codes, dtype=np.uint64))
    gaps = form.ulp(values)
    bad = []
    for code, value, gap, line in zip(codes, values, gaps, report.split("\n"), strict=True):
        text, *fields, kind, ulp, back = line.split()
        x = float(text)
        fraction_bits = form.fraction_bits
        expected_fields = [
            code >> (form.bits - 1),
            (code >> fraction_bits) % 2**form.exponent_bits,
            code % 2**fraction_bits,
        ]
        if math.isnan(value) or math.isinf(value):
            expected_kind = "NaN" if math.isnan(value) else "infinity"
        else:
            expected_kind = "zero" if value == 0 else "normal" if abs(value) >= form.smallest_normal else "subnormal"
        right = (
            same(x, float(value))
            and [int(f) for f in fields] == expected_fields
            and kind == expected_kind
            and same(float(ulp), float(gap))
            and (math.isnan(value) or int(back) == code)
        )
        if not right:
            bad.append(f"{form.name} code {code:#x}: {line}; Python: {value} {expected_fields} {expected_kind} {gap}")
    assert not bad, "\n".join(bad[:10])


def hard_numbers(form: FloatFormat) -> list[float]:
    """Numbers of the format, halfway points, their neighbors, overflow and underflow."""
    rng = np.random.default_rng(11)
    codes = np.array(codes_of(form, 400), dtype=np.uint64)
    if len(codes) > 3000:
        codes = rng.choice(codes, 3000, replace=False)
    values = form.decode(codes)
    values = values[np.isfinite(values)]
    with np.errstate(over="ignore"):
        halves = values + form.ulp(values) / 2
        around = np.concatenate([values, halves, np.nextafter(halves, np.inf), np.nextafter(halves, -np.inf)])
    ends = [
        form.max,
        form.max + float(form.ulp(form.max)) / 2,
        form.smallest_subnormal / 2,
        form.smallest_subnormal * 0.75,
        0.0,
        -0.0,
    ]
    return [*around.tolist(), *ends, *rng.standard_normal(200).tolist(), 1e300, -1e300, math.inf, -math.inf]


@pytest.mark.parametrize("saturate", [False, True], ids=["overflow", "saturate"])
@pytest.mark.parametrize("form", formats(), ids=lambda f: f.name)
def test_encode_rounds_as_the_package(form: FloatFormat, saturate: bool, engine: Page) -> None:
    page = engine
    numbers = hard_numbers(form)
    got = page.evaluate(
        "([name, xs, saturate]) => xs.map(x => String(quantcourse.encode(name, x, saturate)))",
        [form.name, numbers, saturate],
    )
    expected = [int(c) for c in form.encode(np.array(numbers), saturate)]
    bad = [f"{x!r}: {g}, Python {e}" for x, g, e in zip(numbers, got, expected, strict=True) if int(g) != e]
    assert not bad, "\n".join(bad[:10])


def test_nan_and_exact_decimals(engine: Page) -> None:
    page = engine
    for form in formats():
        got = page.evaluate("name => String(quantcourse.encode(name, NaN))", form.name)
        if form.specials == "finite":
            assert got == "null"
        else:
            assert int(got) == int(form.encode(np.nan)), form.name
    rng = np.random.default_rng(3)
    for form in (FORMATS["FP64"], FORMATS["FP16"], FORMATS["FP8 E4M3"]):
        codes = [1, *(int(c) for c in rng.integers(0, 2 ** (form.bits - 2), 40))]
        full = page.evaluate(
            "([n, cs]) => cs.map(c => quantcourse.inFull(...quantcourse.integerAndExponent(n, BigInt(c))))",
            [form.name, [str(c) for c in codes]],
        )
        short = page.evaluate(
            "([n, cs]) => cs.map(c => quantcourse.inShort(n, BigInt(c)))", [form.name, [str(c) for c in codes]]
        )
        for code, exact, brief in zip(codes, full, short, strict=True):
            value = float(form.decode(np.uint64(code)))
            assert fractions.Fraction(exact) == fractions.Fraction(value), f"{form.name} {code}: {exact}"
            assert int(form.encode(float(brief.replace("−", "-")))) == code, f"{form.name} {code}: {brief}"


def explorer(page: Page, kind: str) -> Any:
    box = page.locator(f'.qc-explorer[data-explorer="{kind}"]').first
    box.scroll_into_view_if_needed()
    return box


def bits_of(box: Any) -> str:
    return "".join(box.locator("button.qc-bit").all_inner_texts())


def facts_of(box: Any) -> dict[str, str]:
    return box.evaluate(
        "b => Object.fromEntries([...b.querySelectorAll('dt')].map(e => [e.textContent, e.nextElementSibling.textContent]))"
    )


def test_typed_numbers_show_what_python_computes(open_page: Opener) -> None:
    page = open_page(page_with("float-bits")).page
    box = explorer(page, "float-bits")
    typed = {
        "0.1": 0.1,
        "-2049": -2049,
        "1e-7": 1e-7,
        "3.4e38": 3.4e38,
        "70000": 70000,
        "0,3": 0.3,
        "−5.5": -5.5,
        "1_000.25": 1000.25,
        "inf": math.inf,
    }
    for form in formats():
        box.locator("select").select_option(form.name)
        for text, x in typed.items():
            box.locator("input[type=text]").fill(text)
            assert int(bits_of(box), 2) == int(form.encode(x)), f"{text} in {form.name}"
            facts = facts_of(box)
            assert int(facts["Code"], 16) == int(form.encode(x))
            value = float(form.round(x))
            if math.isfinite(value) and math.isfinite(x) and form.bits <= 16:
                assert float(facts["Value in full"].replace("−", "-")) == value
                if value == x:
                    assert "none" in facts["Rounding error"]
                else:
                    error = float(facts["Rounding error"].split(" against")[0].replace("−", "-"))
                    assert error == pytest.approx(value - x, rel=1e-3), f"{text} in {form.name}"
    box.locator("select").select_option("FP64")
    box.locator("input[type=text]").fill("0.1")
    assert "5.551e−18" in facts_of(box)["Rounding error"], (
        "the error is measured against the decimal, not its FP64 neighbor"
    )
    box.locator("input[type=text]").fill("one")
    assert "not a number" in box.locator("output").inner_text()
    box.locator("select").select_option("FP4 E2M1")
    box.locator("input[type=text]").fill("nan")
    assert "has no NaN" in box.locator("output").inner_text()
    box.locator("select").select_option("FP8 E4M3")
    box.locator("input[type=text]").fill("1000")
    assert "NaN" in box.locator("output").inner_text()
    box.locator("input[type=checkbox]").check()
    assert "448" in box.locator("output").inner_text()


def test_presets(open_page: Opener) -> None:
    page = open_page(page_with("float-bits")).page
    box = explorer(page, "float-bits")
    for form in formats():
        box.locator("select").select_option(form.name)
        buttons = box.locator(".qc-buttons button").all_inner_texts()
        expected = {
            "1": 1.0,
            "largest": form.max,
            "smallest normal": form.smallest_normal,
            "smallest subnormal": form.smallest_subnormal,
        }
        if form.specials == "ieee":
            expected["infinity"] = math.inf
        if form.specials != "finite":
            expected["NaN"] = math.nan
        assert buttons == list(expected), form.name
        for name, value in expected.items():
            box.get_by_role("button", name=name, exact=True).click()
            assert same(float(form.decode(np.uint64(int(bits_of(box), 2)))), value), f"{form.name}: {name}"


def test_bits_by_keyboard(open_page: Opener) -> None:
    page = open_page(page_with("float-bits")).page
    box = explorer(page, "float-bits")
    box.locator("select").select_option("FP16")
    assert bits_of(box) == "0011110000000000"
    assert box.locator("button.qc-bit[tabindex='0']").count() == 1, "the row of bits should be one tab stop"
    box.locator("button.qc-bit[tabindex='0']").focus()
    page.keyboard.press("Space")
    assert bits_of(box) == "1011110000000000", "space flips the sign bit"
    assert box.locator("output").inner_text().startswith("−1")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert bits_of(box) == "1111110000000000", "the arrow moves to the first exponent bit and Enter flips it"
    assert "minus infinity" in box.locator("output").inner_text()
    page.keyboard.press("End")
    page.keyboard.press("Space")
    assert bits_of(box) == "1111110000000001"
    assert "not a number" in box.locator("output").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert bits_of(box) == "0111110000000001", "the row is a ring"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Home")
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "0, sign bit"
    assert box.locator("output").get_attribute("aria-live") == "polite"
    pressed = "".join(
        "1" if b == "true" else "0"
        for b in box.locator("button.qc-bit").evaluate_all("bs => bs.map(b => b.getAttribute('aria-pressed'))")
    )
    assert pressed == bits_of(box)


def test_bits_by_click_and_format_by_keyboard(open_page: Opener) -> None:
    page = open_page(page_with("float-bits"), width=375).page
    box = explorer(page, "float-bits")
    box.locator("select").focus()
    page.keyboard.press("Home")
    assert len(bits_of(box)) == 64
    box.locator("button.qc-bit").nth(63).click()
    assert int(bits_of(box), 2) == int(FORMATS["FP64"].encode(1.0)) + 1
    sizes = box.locator("button.qc-bit").evaluate_all(
        "bs => bs.map(b => { const r = b.getBoundingClientRect(); return [r.width, r.height]; })"
    )
    assert min(min(size) for size in sizes) >= 24, "WCAG 2.2 asks for targets of 24 pixels"


@pytest.mark.parametrize("kind", ["float-bits", "fixed-point", "clip-range", "multiplier", "thresholds"])
def test_text_without_javascript(kind: str, open_page: Opener) -> None:
    page = open_page(page_with(kind), javascript=False).page
    box = page.locator(f'.qc-explorer[data-explorer="{kind}"]').first
    assert len(box.inner_text()) > 60, "the fallback text is missing"
    assert box.locator("button, input").count() == 0


FIXED = [
    QFormat(3, 4),
    QFormat(0, 7),
    QFormat(7, 0),
    QFormat(4, 4, signed=False),
    QFormat(0, 8, signed=False),
    QFormat(12, 12),
    QFormat(0, 0),
    QFormat(1, 0, signed=False),
]


@pytest.mark.parametrize("form", FIXED, ids=str)
def test_fixed_point_agrees(form: QFormat, engine: Page) -> None:
    page = engine
    q = {"integerBits": form.integer_bits, "fractionBits": form.fraction_bits, "signed": form.signed}
    codes = np.arange(form.min_code, form.max_code + 1)
    if len(codes) > 3000:
        codes = np.random.default_rng(5).choice(codes, 3000, replace=False)
    values = form.decode(codes)
    span = form.max - form.min + form.resolution
    numbers = np.concatenate(
        [values, values + form.resolution / 2, values + span, values - span * 1.3, [0.1, -0.1, 2.7, 1e6, -1e6]]
    )
    script = "([q, xs, mode]) => xs.map(x => quantcourse.fixedEncode(q, x, mode))"
    for overflow in ("saturate", "wrap"):
        got = page.evaluate(script, [q, numbers.tolist(), overflow])
        expected = form.encode(numbers, overflow=overflow)
        bad = [f"{overflow} {x!r}: {g}, Python {e}" for x, g, e in zip(numbers, got, expected, strict=True) if g != e]
        assert not bad, "\n".join(bad[:10])
    got = page.evaluate("([q, cs]) => cs.map(c => quantcourse.fixedDecode(q, c))", [q, codes.tolist()])
    assert got == values.tolist()


def test_fixed_point_by_keyboard(open_page: Opener) -> None:
    page = open_page(page_with("fixed-point")).page
    box = explorer(page, "fixed-point")
    box.get_by_label("Integer bits").fill("3")
    box.get_by_label("Fraction bits").fill("4")
    number = box.get_by_label("Real number", exact=True)
    for text, x in {"2.7": 2.7, "100": 100.0, "-8.5": -8.5, "−0,03": -0.03}.items():
        number.fill(text)
        facts = facts_of(box)
        form = QFormat(3, 4)
        for row, overflow in (("Saturated", "saturate"), ("Wrapped", "wrap")):
            shown = facts[row].split("=")[2].split(",")[0].replace("−", "-")
            assert float(shown) == float(form.round(x, overflow=overflow)), f"{row} of {text}: {facts[row]}"
            digits = facts[row].split("=")[0].replace(" ", "").replace(".", "")
            assert int(digits, 2) == int(form.encode(x, overflow=overflow)) % 256, facts[row]
    before = float(number.input_value().replace("−", "-").replace(",", "."))
    box.locator("input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    assert float(number.input_value()) > before, "the slider moves by keyboard"
    box.get_by_label("sign bit").focus()
    page.keyboard.press("Space")
    number.fill("9")
    assert box.locator("output").inner_text().startswith("7.9375 UQ3.4, code 127; wrapped around 1")
    box.get_by_label("Integer bits").fill("0")
    box.get_by_label("Fraction bits").fill("0")
    assert "one bit" in box.locator("output").inner_text()


SCHEMES = ["affine", "symmetric", "symmetric, narrow"]


def type_of(scheme: str, bits: int) -> IntType:
    return IntType(bits, signed=scheme != "affine", narrow="narrow" in scheme)


def in_javascript(dtype: IntType) -> dict[str, Any]:
    return {"bits": dtype.bits, "signed": dtype.signed, "narrow": dtype.narrow}


def python_numbers(
    x: torch.Tensor, low: float, high: float, scheme: str, bits: int
) -> tuple[QParams, dict[str, float]]:
    """What the package makes of a range, under the names of the script."""
    qp = affine.choose_qparams(low, high, type_of(scheme, bits), symmetric=scheme != "affine")
    clipping, rounding = metrics.error_split(x, qp)
    codes = affine.unclipped_codes(x, qp)
    clipped = int(((codes < qp.dtype.min) | (codes > qp.dtype.max)).sum())
    return qp, {"clipping": clipping, "rounding": rounding, "clipped": clipped}


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("scheme", SCHEMES)
def test_affine_agrees(scheme: str, bits: int, engine: Page) -> None:
    """Scale and zero point of random ranges; then codes, values and errors of numbers on, between and beyond levels."""
    rng = np.random.default_rng(bits)
    dtype = type_of(scheme, bits)
    ends = rng.normal(size=(150, 2)) * 10.0 ** rng.integers(-6, 6, size=(150, 1))
    ranges = [(min(pair), max(pair)) for pair in ends.tolist()]
    ranges += [
        (0.0, 0.0),
        (0.0, 1.0),
        (-1.0, 0.0),
        (2.0, 3.0),
        (-3.0, -2.0),
        (-1.0, 1.0),
        (0.0, 1e-44),
        (-1e-300, 1e-300),
    ]
    ranges += [(-3e38, 3e38), (0.0, 3.4e38)]
    chosen = [affine.choose_qparams(low, high, dtype, symmetric=scheme != "affine") for low, high in ranges]
    normals = rng.normal(size=60)
    data = []
    for (low, high), qp in zip(ranges, chosen, strict=True):
        levels = (np.arange(dtype.min - 3, dtype.max + 4) - int(qp.zero_point)) * float(qp.scale)
        numbers = np.concatenate([levels, levels + float(qp.scale) / 2, normals * (high - low), [low, high, 0.0]])
        data.append(torch.tensor(np.clip(numbers, -3e38, 3e38), dtype=torch.float32))
    # One string there and one back, as for the floats.
    report = engine.evaluate(
        """text => {
          const q = quantcourse, [cases, dtype, symmetric] = JSON.parse(text);
          return JSON.stringify(cases.map(([low, high, xs]) => {
            const qp = q.chooseQParams(low, high, dtype, symmetric), codes = xs.map(x => q.quantize(x, qp));
            return { ...qp, codes, values: codes.map(c => q.dequantize(c, qp)), ...q.errorSplit(xs, qp), sqnr: q.sqnr(xs, qp) };
          }));
        }""",
        json.dumps(
            [
                [[*ends, x.tolist()] for ends, x in zip(ranges, data, strict=True)],
                in_javascript(dtype),
                scheme != "affine",
            ]
        ),
    )
    for (low, high), qp, x, got in zip(ranges, chosen, data, json.loads(report), strict=True):
        what = f"{scheme}, {bits} bits, {low!r} to {high!r}"
        assert (got["scale"], got["zeroPoint"]) == (float(qp.scale), int(qp.zero_point)), what
        codes = affine.quantize(x, qp)
        assert got["codes"] == codes.tolist(), what
        assert got["values"] == affine.dequantize(codes, qp).tolist(), what
        _, errors = python_numbers(x, low, high, scheme, bits)
        for name, value in errors.items():
            assert got[name] == pytest.approx(value, rel=1e-9), f"{name}: {what}"
        assert got["sqnr"] == pytest.approx(metrics.sqnr(x, affine.fake_quantize(x, qp)), abs=1e-9), what


def test_samples_are_quantiles(engine: Page) -> None:
    """The data of the figure, from the normal quantiles of Python's standard library."""
    normal = NormalDist()

    def quantiles(n: int) -> list[float]:
        return [normal.inv_cdf((i + 0.5) / n) for i in range(n)]

    z = quantiles(3000)
    expected = {
        "weights": [0.05 * v for v in z],
        "weights with outliers": [0.05 * v for v in quantiles(2940)] + [0.25 * v for v in quantiles(60)],
        "after a ReLU": [max(0.0, 1 + 2 * v) for v in z],
        "after a GELU": [2 * v * normal.cdf(2 * v) for v in z],
        "all positive": [6 + 0.4 * v for v in z],
    }
    got = engine.evaluate(
        "Object.fromEntries(Object.keys(quantcourse.samples).map(n => [n, [...quantcourse.sample(n)]]))"
    )
    assert list(got) == list(expected)
    for name, values in expected.items():
        ours = np.array(got[name])
        assert np.array_equal(ours, ours.astype(np.float32)), f"{name} is not in float32"
        np.testing.assert_allclose(ours, values, rtol=2**-23, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", ["weights", "weights with outliers", "after a ReLU", "after a GELU", "all positive"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_least_error_is_least(scheme: str, name: str, engine: Page) -> None:
    """No range of a grid, and none near the one found, has an error lower by more than 1 %."""
    x = torch.tensor(engine.evaluate("name => [...quantcourse.sample(name)]", name))
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    for bits in (2, 4, 8):
        found = engine.evaluate(
            "([name, dtype, symmetric]) => quantcourse.leastError(quantcourse.sample(name), dtype, symmetric)",
            [name, in_javascript(type_of(scheme, bits)), scheme != "affine"],
        )

        def total(a: float, b: float, bits: int = bits) -> float:
            _, errors = python_numbers(x, a, b, scheme, bits)
            return errors["clipping"] + errors["rounding"]

        shares = np.linspace(0.02, 1, 20)
        if scheme == "affine":
            others = [(low * s, high * t) for s in ([0.0, *shares[1::2]] if low else [0.0]) for t in shares]
        else:
            assert found[0] == -found[1]
            others = [(-s * max(-low, high), s * max(-low, high)) for s in np.linspace(0.01, 1, 100)]
        others += [(found[0] * s, found[1] * t) for s in (0.99, 1, 1.01) for t in (0.99, 1, 1.01)]
        assert total(*found) <= 1.01 * min(total(*other) for other in others), f"{bits} bits: {found}"


def clip_range(open_page: Opener, **look: Any) -> tuple[Page, Any]:
    page = open_page(page_with("clip-range"), **look).page
    return page, explorer(page, "clip-range")


def number(text: str) -> float:
    return float(text.split()[0].rstrip(",").replace("−", "-"))


def ends_of(box: Any) -> tuple[float, float]:
    low, high = (box.get_by_label(f"{end} end", exact=True).input_value() for end in ("Low", "High"))
    return number(low), number(high)


def grip(box: Any, end: str) -> tuple[float, float]:
    """Where to take hold of a handle, in pixels of the window."""
    rect = box.get_by_role("slider", name=f"{end} end of the range").locator("circle").bounding_box()
    return rect["x"] + rect["width"] / 2, rect["y"] + rect["height"] / 2


def test_clip_range_shows_what_python_computes(open_page: Opener) -> None:
    page, box = clip_range(open_page)
    for name, low, high in [("weights", -0.1, 0.12), ("after a GELU", -0.17, 5.0), ("all positive", 5.0, 7.0)]:
        box.get_by_label("Data").select_option(name)
        x = torch.tensor(page.evaluate("name => [...quantcourse.sample(name)]", name))
        for scheme in SCHEMES:
            box.get_by_label("Scheme").select_option(scheme)
            for bits in (2, 4, 8):
                box.get_by_label("Bits").select_option(str(bits))
                box.get_by_role("button", name="min-max").click()
                box.get_by_label("Low end", exact=True).fill(str(low))
                box.get_by_label("High end", exact=True).fill(str(high))
                qp, errors = python_numbers(x, low, high, scheme, bits)
                facts, what = facts_of(box), f"{name}, {scheme}, {bits} bits"
                assert number(facts["Scale"]) == pytest.approx(float(qp.scale), rel=1e-5), what
                assert number(facts["Zero point"]) == int(qp.zero_point), what
                assert facts["Levels"].startswith(f"{qp.dtype.max - qp.dtype.min + 1}, codes "), what
                assert facts["Clipped"].startswith(f"{errors['clipped']} of 3000 values"), what
                assert number(facts["Clipping error"]) == pytest.approx(errors["clipping"], rel=1e-3), what
                assert number(facts["Rounding error"]) == pytest.approx(errors["rounding"], rel=1e-3), what
                assert number(facts["Total error"]) == pytest.approx(errors["clipping"] + errors["rounding"], rel=1e-3)
                shown = box.locator("output").inner_text()
                decibel = metrics.sqnr(x, affine.fake_quantize(x, qp))
                assert number(shown.removeprefix("SQNR ")) == pytest.approx(decibel, abs=0.0051), what
                assert f"{qp.dtype!r}".replace("_NARROW", " narrow") in shown, what
                assert ("widened" in facts["Range"]) == ("widened" in shown) == (low > 0 and scheme == "affine"), what


def mouse_drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()


def touch_drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    devtools = page.context.new_cdp_session(page)
    points = [(start[0] + (end[0] - start[0]) * i / 6, start[1] + (end[1] - start[1]) * i / 6) for i in range(7)]
    for i, (x, y) in enumerate(points):
        kind = "touchMove" if i else "touchStart"
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@pytest.mark.parametrize(("drag", "width"), [(mouse_drag, 1280), (touch_drag, 375)], ids=["mouse", "touch"])
def test_clip_range_by_dragging(drag: Callable[..., None], width: int, open_page: Opener) -> None:
    page, box = clip_range(open_page, width=width)
    box.get_by_label("Scheme").select_option("affine")
    box.locator("svg").first.scroll_into_view_if_needed()
    low, high = ends_of(box)
    clipped = facts_of(box)["Clipped"]
    # The pixels of the ends give the scale of the drawing: halfway to the middle is half the value.
    (left, y), (right, _) = grip(box, "Low"), grip(box, "High")
    middle = (left + right) / 2
    drag(page, (left, y), ((left + middle) / 2, y))
    assert ends_of(box)[0] == pytest.approx(low / 2, rel=0.05)
    assert ends_of(box)[1] == high, "an affine range moves one end only"
    assert number(facts_of(box)["Clipped"]) > number(clipped)
    # Anywhere on the histogram the nearer end comes, also far from its grip.
    drag(page, (right - 20, y + 60), ((right + middle) / 2, y + 60))
    assert ends_of(box)[1] == pytest.approx(high / 2, rel=0.05)
    held = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert held == "High end of the range", "what is dragged has the focus"
    # One end does not pass the other.
    high_end = grip(box, "High")
    drag(page, high_end, (left - 10, high_end[1]))
    assert ends_of(box)[0] == ends_of(box)[1]
    box.get_by_role("button", name="min-max").click()
    box.get_by_label("Scheme").select_option("symmetric")
    # Choosing may have scrolled the page, and a touch that slants scrolls it: so the height of the grip as it is now.
    low_end = grip(box, "Low")
    drag(page, low_end, ((left + middle) / 2, low_end[1]))
    now = ends_of(box)
    assert now[0] == -now[1] == pytest.approx(low / 2, rel=0.05), "a symmetric range mirrors"
    assert grip(box, "Low")[0] + grip(box, "High")[0] == pytest.approx(2 * middle, abs=1)
    high_end = grip(box, "High")
    drag(page, high_end, (right, high_end[1]))
    assert ends_of(box)[0] == -ends_of(box)[1] == pytest.approx(low, rel=0.02)
    # One-sided data leave half of a symmetric range empty, and the picture shows that half too.
    box.get_by_label("Data").select_option("after a ReLU")
    now = ends_of(box)
    assert now[0] == -now[1] < -8
    frame = box.locator("svg").first.bounding_box()
    assert frame["x"] < grip(box, "Low")[0] < grip(box, "High")[0] < frame["x"] + frame["width"]
    assert grip(box, "Low")[0] + grip(box, "High")[0] == pytest.approx(2 * frame["x"] + frame["width"], abs=2)


def test_clip_range_leaves_scrolling_to_the_finger(open_page: Opener) -> None:
    page, box = clip_range(open_page, width=375)
    box.locator("svg").first.scroll_into_view_if_needed()
    before, (x, y) = ends_of(box), grip(box, "Low")
    top = page.evaluate("scrollY")
    touch_drag(page, (x + 60, y + 60), (x + 60, y - 200))
    page.wait_for_function("top => scrollY > top + 50", arg=top)
    assert ends_of(box)[1] == before[1]


def test_clip_range_by_keyboard(open_page: Opener) -> None:
    page, box = clip_range(open_page)
    box.get_by_label("Scheme").select_option("affine")
    minimum, high = ends_of(box)
    handles = {end: box.get_by_role("slider", name=f"{end} end of the range") for end in ("Low", "High")}

    def press(*keys: str) -> float:
        for key in keys:
            page.keyboard.press(key)
        return ends_of(box)[0]

    handles["Low"].focus()
    low = press("ArrowRight", "ArrowLeft")  # on the grid of the keys
    step = press("ArrowRight") - low
    assert 0 < step < (high - low) / 100
    assert press("PageUp") == pytest.approx(low + 11 * step)
    assert press("PageDown", "ArrowLeft") == low
    assert ends_of(box)[1] == high
    assert press("End") == high, "one end does not pass the other"
    assert press("Home") < minimum
    page.keyboard.press("Tab")
    assert handles["High"].evaluate("e => e === document.activeElement"), "the handles follow each other"
    page.keyboard.press("End")
    assert ends_of(box)[1] > high
    page.keyboard.press("Home")
    assert ends_of(box)[1] == ends_of(box)[0]
    assert "widened to hold 0" in box.locator("output").inner_text()
    box.get_by_role("button", name="min-max").press("Enter")
    assert ends_of(box) == (minimum, high)
    minmax = number(facts_of(box)["Total error"])
    box.get_by_role("button", name="least error").press("Enter")
    assert number(facts_of(box)["Total error"]) < 0.9 * minmax, "at 4 bits clipping pays"
    box.get_by_label("Scheme").select_option("symmetric, narrow")
    handles["High"].focus()
    page.keyboard.press("ArrowLeft")
    now = ends_of(box)
    assert now[0] == -now[1]
    for end, value in zip(("Low", "High"), now, strict=True):
        assert float(handles[end].get_attribute("aria-valuenow") or "nan") == value
        assert float(handles[end].get_attribute("aria-valuemin") or "nan") < value
        assert float(handles[end].get_attribute("aria-valuemax") or "nan") > value
    box.get_by_label("Low end", exact=True).fill("0,07")
    assert ends_of(box) == (-0.07, 0.07), "a symmetric range knows only one magnitude"


def test_clip_range_refuses_with_a_reason(open_page: Opener) -> None:
    _, box = clip_range(open_page)
    box.get_by_label("Scheme").select_option("affine")
    low, high = ends_of(box)
    field, out = box.get_by_label("Low end", exact=True), box.locator("output")
    assert out.get_attribute("aria-live") == "polite"
    for text, reason in {
        "one": "not a number",
        "": "not a number",
        "1e39": "not a number",
        str(high + 1): "above the high end",
    }.items():
        field.fill(text)
        assert reason in out.inner_text()
        assert field.get_attribute("aria-invalid") == "true"
        assert number(facts_of(box)["Range"]) == pytest.approx(low, rel=1e-3), "the range stays"
    field.press("Tab")
    assert ends_of(box) == (low, high), "the field shows the range again"
    assert "SQNR" in out.inner_text()
    field.fill("-1e30")
    assert number(facts_of(box)["Range"]) == -1e30, "far outside the picture"
    assert field.get_attribute("aria-invalid") == "false"


def test_clip_range_targets(open_page: Opener) -> None:
    _, box = clip_range(open_page, width=375)
    for target in [*box.get_by_role("slider").all(), *box.locator("button, select, input").all()]:
        rect = target.bounding_box()
        assert min(rect["width"], rect["height"]) >= 24, "WCAG 2.2 asks for targets of 24 pixels"


ROUNDINGS = ["double", "single", "float"]


def multipliers() -> list[float]:
    """Over the whole range, with powers of two, their neighbours, ties of M0 and the two ends."""
    rng = np.random.default_rng(26)
    spread = (rng.uniform(0.5, 1, 400) * 2.0 ** rng.integers(-34, 31, 400)).tolist()
    ties = ((rng.integers(2**30, 2**31, 60) + 0.5) * 2.0 ** rng.integers(-62, -31, 60)).tolist()
    powers = [2.0**e for e in range(-33, 30)]
    around = [math.nextafter(p, up) for p in powers for up in (0, math.inf)]
    return [0.0, 5e-324, 1e-300, 0.1, 0.3, 1.5, *spread, *ties, *powers, *around]


def test_multiplier_agrees(engine: Page) -> None:
    numbers = multipliers()
    got = engine.evaluate("xs => xs.map(x => quantcourse.quantizeMultiplier(x).map(Number))", numbers)
    assert got == [list(integer.quantize_multiplier(m)) for m in numbers]
    for large in (2.0**30, math.nextafter(2.0**30, 0), 1e300):
        assert engine.evaluate("x => quantcourse.quantizeMultiplier(x)", large) is None
        with pytest.raises(ValueError, match="m: need less"):
            integer.quantize_multiplier(large)


@pytest.mark.parametrize("bits", [8, 13, 16, 24, 31])
def test_short_multiplier_is_nearest(bits: int, engine: Page) -> None:
    """With fewer bits: zeros behind, the top bit in place, and at most half of the last bit off."""
    numbers = [m for m in multipliers() if 2.0**-31 < m < 2.0**29]
    got = engine.evaluate(
        "([xs, bits]) => xs.map(x => quantcourse.quantizeMultiplier(x, bits).map(Number))", [numbers, bits]
    )
    for m, (m0, shift) in zip(numbers, got, strict=True):
        assert 2**30 <= m0 < 2**31, m
        assert m0 % 2 ** (32 - bits) == 0, m
        unit = fractions.Fraction(2) ** (shift - 31)
        assert abs(m0 * unit - fractions.Fraction(m)) <= unit * 2 ** (31 - bits), m


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_products_agree(rounding: str, engine: Page) -> None:
    """Accumulators of every size, ties on both sides of zero, the ends of INT32, and products that leave it."""
    rng = np.random.default_rng(54)
    spread = [int(a) >> int(k) for a, k in zip(rng.integers(-(2**31), 2**31, 40), rng.integers(0, 31, 40), strict=True)]
    accumulators = [*range(-9, 10), *spread, -(2**31), 2**31 - 1, 2**24 + 1, -(2**24) - 1]
    cases = [
        (acc, *integer.quantize_multiplier(m))
        for m in [*multipliers()[3::9], 0.5, 0.25, 0.125, 0.75]
        for acc in accumulators
    ]
    got = engine.evaluate(
        """([cases, rounding]) => cases.map(([acc, m0, shift]) => {
          const product = quantcourse.multiplyByQuantizedMultiplier(BigInt(acc), BigInt(m0), shift, rounding);
          return product === null ? null : Number(product);
        })""",
        [cases, rounding],
    )
    overflows = 0
    for case, result in zip(cases, got, strict=True):
        if result is None:
            overflows += 1
            with pytest.raises(ValueError, match="INT32"):
                integer.multiply_by_quantized_multiplier(*case, rounding)
        else:
            assert result == int(integer.multiply_by_quantized_multiplier(*case, rounding)), case
    assert 0 < overflows < len(cases) / 2


def typed_multiplier(box: Any, m: str, acc: str) -> None:
    box.get_by_label("Multiplier M").fill(m)
    box.get_by_label("Accumulator").fill(acc)


def results_of(box: Any) -> list[str]:
    return [way.locator("dd").last.inner_text().replace("−", "-") for way in box.locator(".qc-way").all()]


def test_multiplier_shows_what_python_computes(open_page: Opener) -> None:
    box = explorer(open_page(page_with("multiplier")).page, "multiplier")
    for text, accumulator in [
        ("0.0072474273", "12345"),
        ("0,3", "−15"),
        ("0.25", "1"),
        ("1.5", "-20"),
        ("1e-7", "2_000_000_001"),
    ]:
        typed_multiplier(box, text, accumulator)
        m, acc = float(text.replace(",", ".")), int(accumulator.replace("−", "-").replace("_", ""))
        m0, shift = integer.quantize_multiplier(m)
        out, facts = box.locator("output").inner_text().replace("−", "-"), facts_of(box)
        assert out.startswith(f"M0 = {m0}, shift {shift} "), text
        assert bits_shown(box) == f"{m0:032b}", text
        products = [int(integer.multiply_by_quantized_multiplier(acc, m0, shift, r)) for r in ROUNDINGS]
        assert results_of(box) == [str(p) for p in products], text
        if len(set(products)) == 1:
            assert f"{products[0]} in all three ways" in out
        else:
            assert f"differ: {', '.join(map(str, products))}" in out
        # What is in use and the exact product, in full; the error as measured against the typed decimal.
        value = fractions.Fraction(facts["In use"].split("= ")[-1].removeprefix("all digits"))
        assert value == m0 * fractions.Fraction(2) ** (shift - 31)
        exact = fractions.Fraction(text.replace(",", "."))
        assert fractions.Fraction(facts["Exact product"].split("= ")[1].replace("−", "-")) == acc * exact
        if value == exact:
            assert facts["Error of M0"] == "none"
        else:
            assert number(facts["Error of M0"]) == pytest.approx(float((value - exact) / exact), rel=1e-3)
            assert facts["Error of M0"].endswith("4.657e−10")
            assert abs(value - exact) / exact <= fractions.Fraction(1, 2**31)


def bits_shown(box: Any) -> str:
    return "".join(box.locator(".qc-bits .qc-bit").all_inner_texts())


def test_multiplier_says_where_the_ways_differ(open_page: Opener) -> None:
    """One quarter of 1 is rounded to 1/2, then to 1; the other ways give 0."""
    box = explorer(open_page(page_with("multiplier")).page, "multiplier")
    typed_multiplier(box, "0.25", "1")
    assert results_of(box) == ["1", "0", "0"]
    twice, once = box.get_by_role("group", name="Rounded twice"), box.get_by_role("group", name="Rounded once")
    assert "not the nearest integer, off by 0.75" in twice.inner_text()
    assert "the nearest integer, off by −0.25" in once.inner_text()
    marks = [way.evaluate("e => getComputedStyle(e).borderTopWidth") for way in (twice, once)]
    assert marks == ["2px", "1px"], "the difference is marked"
    steps = {
        what: int(value)
        for what, value in zip(
            twice.locator("dt").all_inner_texts(), twice.locator("dd").all_inner_texts(), strict=True
        )
    }
    assert list(steps.values()) == [2**30, 2**31, 1, 2, 1], steps
    typed_multiplier(box, "0.25", "-5")
    shown = [int(value.replace("−", "-")) for value in twice.locator("dd").all_inner_texts()]
    assert shown == [-5 * 2**30, -4 * 2**30, -2, -3, -1], "half is added away from zero"
    typed_multiplier(box, "0.5", "5")
    assert results_of(box) == ["3", "3", "2"], "a tie: up, up, to even"
    assert "a tie" in twice.inner_text()
    assert box.locator(".qc-off").count() == 1, "one stands alone"
    assert "ties to even" in box.locator(".qc-off").inner_text()
    typed_multiplier(box, "3", "2000000000")
    assert "differ" not in box.locator("output").inner_text()
    assert "overflow" in box.locator("output").inner_text()
    assert "leaves INT32" in once.inner_text()


def test_short_multiplier_by_keyboard(open_page: Opener) -> None:
    page = open_page(page_with("multiplier"), width=375).page
    box = explorer(page, "multiplier")
    typed_multiplier(box, "0.3", "1000")
    exact = results_of(box)
    slider = box.get_by_role("slider", name="Bits of M0")
    slider.focus()
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "8 bits"
    assert bits_shown(box) == f"{77 << 24:032b}", "0.3 = 0.6 / 2, and 0.6 * 128 is 77 to the nearest"
    assert facts_of(box)["Error of M0"].endswith("0.007813"), "1/128 at most"
    assert results_of(box) != exact
    page.keyboard.press("End")
    assert results_of(box) == exact
    box.get_by_role("button", name="rounded up to one").press("Enter")
    assert box.locator("output").inner_text().startswith("M0 = 1073741824, shift 1")


def test_multiplier_refuses_with_a_reason(open_page: Opener) -> None:
    box = explorer(open_page(page_with("multiplier")).page, "multiplier")
    out = box.locator("output")
    assert out.get_attribute("aria-live") == "polite"
    fields = {"M": box.get_by_label("Multiplier M"), "acc": box.get_by_label("Accumulator")}
    for field, text, reason in [
        ("M", "one", "not a number"),
        ("M", "", "not a number"),
        ("M", "-0.5", "not negative"),
        ("M", "1073741824", "too large"),
        ("M", "1e999", "too large"),
        ("acc", "1.5", "not an integer"),
        ("acc", "", "not an integer"),
        ("acc", "2147483648", "does not fit INT32"),
        ("acc", "-2147483649", "does not fit INT32"),
    ]:
        typed_multiplier(box, "0.5", "4")
        fields[field].fill(text)
        assert reason in out.inner_text(), text
        assert [name for name, f in fields.items() if f.get_attribute("aria-invalid") == "true"] == [field]
    typed_multiplier(box, "1e-12", "-2147483648")
    assert out.inner_text().startswith("M0 = 0, shift 0")
    assert results_of(box) == ["0", "0", "0"]
    assert "every product is 0" in facts_of(box)["M"]


ACTIVATIONS = ["bell curve", "bell curve with outliers", "heavy tails", "after a ReLU", "after a GELU", "lognormal"]
OBSERVERS = ["min-max", "moving average", "percentile", "entropy", "MSE", "ADMM"]


def values_of(page: Page, call: str) -> torch.Tensor:
    """An array of the script; as one string, since thousands of single values would take long to pass."""
    return torch.tensor(json.loads(page.evaluate(f"JSON.stringify([...quantcourse.{call}])")))


@pytest.fixture(scope="module")
def calm_activations(engine: Page) -> dict[str, torch.Tensor]:
    return {name: values_of(engine, f"activation({name!r})") for name in ACTIVATIONS}


def with_outlier(calm: torch.Tensor, times: float) -> tuple[torch.Tensor, float | None]:
    """One value, in the ninth of sixteen batches, put at `times` the largest magnitude; 1 means none."""
    if times == 1:
        return calm, None
    x, sign = calm.clone(), 1 if -calm.min() < calm.max() else -1
    x[16008] = sign * times * float(calm.abs().max())
    return x, float(x[16008])


def levels_of(x: torch.Tensor, bits: int) -> int:
    return 2**bits if x.min() >= 0 else 2 ** (bits - 1)


def observers_of(x: torch.Tensor, levels: int, p: float) -> dict[str, calibrate.Observer]:
    """The package's observers after the same sixteen batches."""
    observers = [
        calibrate.MinMax(),
        calibrate.MovingAverageMinMax(),
        calibrate.Percentile(p),
        calibrate.Entropy(levels=levels),
        calibrate.MSE(levels=levels),
        calibrate.ADMM(levels=levels),
    ]
    for observer in observers:
        for batch in range(16):
            observer.observe(x[batch::16])
    return dict(zip(OBSERVERS, observers, strict=True))


def larger_end(observer: calibrate.Observer) -> float:
    low, high = observer.range()
    return float(torch.maximum(-low, high))


def test_activations_are_quantiles(engine: Page, calm_activations: dict[str, torch.Tensor]) -> None:
    """As for the samples of the other figure, from Python's standard library; an outlier changes one value."""
    normal, n = NormalDist(), 32000

    def quantiles(n: int) -> list[float]:
        return [normal.inv_cdf((i + 0.5) / n) for i in range(n)]

    z, shares = quantiles(n), [(i + 0.5) / n for i in range(n)]
    expected = {
        "bell curve": z,
        "bell curve with outliers": [*quantiles(n - 320), *(5 * v for v in quantiles(320))],
        "heavy tails": [math.log(2 * s) if s < 0.5 else -math.log(2 - 2 * s) for s in shares],
        "after a ReLU": [max(0.0, v) for v in z],
        "after a GELU": [2 * v * normal.cdf(2 * v) for v in z],
        "lognormal": [math.exp(v) for v in z],
    }
    assert list(expected) == ACTIVATIONS == engine.evaluate("Object.keys(quantcourse.activations)")
    for name, values in expected.items():
        calm = calm_activations[name]
        np.testing.assert_allclose(calm, values, rtol=2**-23, atol=1e-8, err_msg=name)
        wild, outlier = with_outlier(calm, 3)
        assert torch.equal(values_of(engine, f"activation({name!r}, {outlier})"), wild)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_thresholds_agree(name: str, engine: Page, calm_activations: dict[str, torch.Tensor]) -> None:
    """All observers, all widths, with and without an outlier: the thresholds of the package, bit for bit."""
    for times, widths in [(1, range(3, 9)), (1.1, (3,)), (2.3, (4, 6)), (5, (3, 8))]:
        x, outlier = with_outlier(calm_activations[name], times)
        for bits in widths:
            p = {3: 99.0, 4: 99.9, 5: 99.99, 6: 50.0, 7: 100.0, 8: 99.73}[bits]
            got = engine.evaluate(
                "([n, o, levels, p]) => quantcourse.thresholds(quantcourse.activation(n, o), levels, p)",
                [name, outlier, levels_of(x, bits), p],
            )
            expected = {key: larger_end(o) for key, o in observers_of(x, levels_of(x, bits), p).items()}
            assert got == expected, f"{name}, {bits} bits, outlier {outlier}"


@pytest.mark.parametrize("seed", range(6))
def test_thresholds_agree_on_random_data(seed: int, engine: Page) -> None:
    """Uneven histograms: empty bins, values on edges, batches that grow and shrink."""
    rng = np.random.default_rng(seed)
    draws: list[np.ndarray[Any, Any]] = [
        rng.normal(size=900) * np.linspace(0.2, 3, 900),
        rng.integers(-40, 41, 640) / 8,
        rng.standard_t(3, 2000),
        np.abs(rng.normal(size=333)) ** 3,
        rng.choice([0.0, 0.0, 0.5, 2.0, 7.0], 500),
        rng.uniform(-1, 2, 160) * 1e-3,
    ]
    x = torch.tensor(draws[seed], dtype=torch.float32)
    for levels, p in [(4, 90.0), (8, 99.0), (32, 99.9), (128, 33.3), (512, 95.0)]:
        got = engine.evaluate(
            "([x, levels, p]) => quantcourse.thresholds(Float32Array.from(x), levels, p)", [x.tolist(), levels, p]
        )
        expected = {name: larger_end(observer) for name, observer in observers_of(x, levels, p).items()}
        assert got == pytest.approx(expected, rel=1e-6), f"{levels} levels"
        histogram = engine.evaluate(
            "x => quantcourse.magnitudes(quantcourse.batches(Float32Array.from(x)))", x.tolist()
        )
        counts, width = observers_of(x, levels, p)["MSE"].histogram()  # type: ignore[attr-defined]
        assert histogram["width"] == float(width)
        zeros, first, *others = histogram["counts"]
        assert [zeros + first, *others] == counts.tolist()


def thresholds(open_page: Opener, **look: Any) -> tuple[Page, Any]:
    page = open_page(page_with("thresholds"), **look).page
    return page, explorer(page, "thresholds")


def table_of(box: Any) -> dict[str, list[str]]:
    """The cells of each observer; what is written small stands in a line of its own."""
    rows = box.locator("tbody tr").all()
    return {
        row.locator("th").inner_text().strip(): [c.inner_text().replace("−", "-") for c in row.locator("td").all()]
        for row in rows
    }


def test_thresholds_show_what_python_computes(open_page: Opener, calm_activations: dict[str, torch.Tensor]) -> None:
    _, box = thresholds(open_page)
    box.get_by_role("textbox", name="Percentile").fill("99,5")
    for name in ("heavy tails", "after a ReLU"):
        box.get_by_label("Data").select_option(name)
        x = calm_activations[name]
        for bits in (3, 8):
            box.get_by_label("Bits").select_option(str(bits))
            one_sided = bool(x.min() >= 0)
            dtype = IntType(bits, signed=not one_sided, narrow=not one_sided)
            table, errors = table_of(box), {}
            assert list(table) == OBSERVERS
            for key, observer in observers_of(x, levels_of(x, bits), 99.5).items():
                # A range to both sides, with the larger end; the table is about this threshold.
                T = larger_end(observer)
                qp = affine.choose_qparams(0.0 if one_sided else -T, T, dtype, symmetric=not one_sided)
                y, codes, what = (
                    affine.fake_quantize(x, qp),
                    affine.unclipped_codes(x, qp),
                    f"{name}, {bits} bits, {key}",
                )
                errors[key] = metrics.mse(x, y)
                clipped = 100 * float(((codes < dtype.min) | (codes > dtype.max)).double().mean())
                shown = [number(text) for text in table[key]]
                assert shown[0] == pytest.approx(T, rel=5e-4), what
                assert shown[1] == pytest.approx(clipped, rel=5e-3), what
                assert shown[2] == pytest.approx(errors[key], rel=5e-3), what
                assert shown[3] == pytest.approx(metrics.sqnr(x, y), abs=0.0051), what
            best = min(errors, key=errors.__getitem__)
            assert [key for key, cells in table.items() if "best" in cells[3]] == [best]
            out = box.locator("output").inner_text()
            assert out.startswith(f"Least error: {best}, ")
            assert f"{'U' if one_sided else ''}INT{bits}, {levels_of(x, bits)} magnitudes" in out


def test_an_outlier_moves_some_observers(open_page: Opener, calm_activations: dict[str, torch.Tensor]) -> None:
    page, box = thresholds(open_page)
    box.get_by_label("Data").select_option("bell curve")
    box.get_by_label("Bits").select_option("4")
    calm, before = calm_activations["bell curve"], table_of(box)
    assert "One outlier: none" in box.inner_text()
    slider = box.get_by_role("slider", name="One outlier")
    slider.focus()
    page.keyboard.press("End")
    x, outlier = with_outlier(calm, 5)
    assert slider.get_attribute("aria-valuetext") == f"{outlier:.4g}, 5 times the largest magnitude".replace("-", "−")
    now, was = (observers_of(data, 8, 99.9) for data in (x, calm))
    moved = {key: larger_end(now[key]) / larger_end(was[key]) - 1 for key in OBSERVERS}
    assert moved["min-max"] == pytest.approx(4)
    assert 0.01 < moved["moving average"] < 0.1
    assert moved["entropy"] == 0
    for key, (shown, *_) in table_of(box).items():
        T, change = shown.split("\n")
        assert number(T) == pytest.approx(larger_end(now[key]), rel=5e-4), key
        if abs(moved[key]) < 5e-4:
            assert change == "stays", key
        else:
            assert float(change.removesuffix(" %")) == pytest.approx(100 * moved[key], rel=0.06), key
    out = box.locator("output")
    assert out.get_attribute("aria-live") == "polite"
    assert "moved: min-max +400 %, moving average +" in out.inner_text()
    assert "entropy" not in out.inner_text().split("moved:")[1]
    page.keyboard.press("Home")
    assert table_of(box) == before
    page.keyboard.press("End")
    box.get_by_label("Data").select_option("lognormal")
    assert "One outlier: none" in box.inner_text(), "other data start without one"


def test_the_outlier_by_touch(open_page: Opener) -> None:
    page, box = thresholds(open_page, width=375)
    slider = box.get_by_role("slider", name="One outlier")
    slider.scroll_into_view_if_needed()
    rect = slider.bounding_box()
    y = rect["y"] + rect["height"] / 2
    touch_drag(page, (rect["x"] + 10, y), (rect["x"] + 0.75 * rect["width"], y))
    assert 35 <= int(slider.input_value()) <= 45
    assert "min-max +" in box.locator("output").inner_text()


def test_observers_are_switched_one_by_one(open_page: Opener) -> None:
    """By keyboard; the table keeps its numbers, the picture loses the line and its name."""
    page, box = thresholds(open_page)
    picture = box.get_by_role("img").first

    def named() -> list[str]:
        return picture.locator("text.qc-name").all_text_contents()

    assert sorted(named()) == sorted(OBSERVERS)
    looks = picture.locator("path.qc-threshold").evaluate_all(
        "lines => lines.map(e => { const s = getComputedStyle(e); return s.stroke + s.strokeDasharray; })"
    )
    assert len(set(looks)) == 6, "two lines look the same"
    table = table_of(box)
    for left, name in enumerate(OBSERVERS):
        switch = box.get_by_role("checkbox", name=name, exact=True)
        switch.focus()
        page.keyboard.press("Space")
        assert name not in named()
        assert name not in (picture.get_attribute("aria-label") or "")
        assert picture.locator("path.qc-threshold").count() == 5 - left
    assert table_of(box) == table
    bars = picture.locator("path.qc-bar").get_attribute("d")
    box.get_by_label("logarithmic counts").uncheck()
    assert picture.locator("path.qc-bar").get_attribute("d") != bars


def test_percentile_of_the_reader(open_page: Opener, calm_activations: dict[str, torch.Tensor]) -> None:
    _, box = thresholds(open_page)
    field, out = box.get_by_role("textbox", name="Percentile"), box.locator("output")
    x = calm_activations[box.get_by_label("Data").input_value()]
    before = table_of(box)
    for p in (50.0, 99.0, 100.0):
        field.fill(str(p))
        now = table_of(box)
        assert number(now["percentile"][0]) == pytest.approx(larger_end(observers_of(x, 8, p)["percentile"]), rel=5e-4)
        assert {key: cells[0] for key, cells in now.items() if key != "percentile"} == {
            key: cells[0] for key, cells in before.items() if key != "percentile"
        }
    for text in ("", "0", "-1", "100.1", "all"):
        field.fill(text)
        assert "above 0 and is 100 at most" in out.inner_text()
        assert field.get_attribute("aria-invalid") == "true"
        assert table_of(box) == now
    field.fill("99.9")
    assert field.get_attribute("aria-invalid") == "false"
    assert "Least error" in out.inner_text()


@pytest.mark.parametrize("width", [1280, 375])
def test_names_of_the_thresholds_are_readable(width: int, open_page: Opener) -> None:
    """No name sticks out of the picture or covers another, wherever the thresholds lie."""
    _, box = thresholds(open_page, width=width)
    picture, slider = box.get_by_role("img").first, box.get_by_role("slider", name="One outlier")
    for name in ACTIVATIONS:
        box.get_by_label("Data").select_option(name)
        for position in ("Home", "End"):
            slider.press(position)
            frame = picture.bounding_box()
            boxes = [text.bounding_box() for text in picture.locator("text.qc-name").all()]
            assert len(boxes) == 6
            rows = picture.locator("text.qc-name").evaluate_all(
                "names => names.map(e => [Number(e.getAttribute('y')), parseFloat(getComputedStyle(e).fontSize)])"
            )
            assert all(below - above > size for (above, size), (below, _) in itertools.pairwise(rows)), (
                f"{name}, {position}"
            )
            for b in boxes:
                assert b["x"] >= frame["x"] - 12 * (width > 600), f"{name}, {position}"
                assert b["x"] + b["width"] <= frame["x"] + frame["width"] + 1, f"{name}, {position}"


@pytest.mark.parametrize("kind", ["multiplier", "thresholds"])
def test_targets_of_the_new_figures(kind: str, open_page: Opener) -> None:
    box = explorer(open_page(page_with(kind), width=375).page, kind)
    for target in box.locator("button, select, input:not([type=checkbox]), label:has(input[type=checkbox])").all():
        rect = target.bounding_box()
        assert min(rect["width"], rect["height"]) >= 24, "WCAG 2.2 asks for targets of 24 pixels"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["multiplier", "thresholds"])
def test_accessible_in_use(kind: str, scheme: str, open_page: Opener) -> None:
    """Also with a short M0 and ways that differ, and with an outlier and an observer switched off."""
    page = open_page(page_with(kind), scheme=scheme).page
    box = explorer(page, kind)
    if kind == "multiplier":
        typed_multiplier(box, "0.5", "7")
    else:
        box.get_by_role("checkbox", name="ADMM").uncheck()
    box.get_by_role("slider").press("PageUp" if kind == "thresholds" else "Home")
    page.evaluate(AXE.read_text("utf8"))
    found = page.evaluate(RUN_AXE, [RULES, True])["violations"]
    assert not [f"{v['id']}: {node['html'][:160]}" for v in found for node in v["nodes"]]
