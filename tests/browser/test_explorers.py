"""The interactive figures: the same numbers as the Python package, by keyboard, and a text without JavaScript."""

import fractions
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

from conftest import SITE, Opener
from quantcourse import affine, metrics
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


@pytest.mark.parametrize("kind", ["float-bits", "fixed-point", "clip-range"])
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
