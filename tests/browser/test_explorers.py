"""The interactive figures: the same numbers as the Python package, by keyboard, and a text without JavaScript."""

import fractions
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from conftest import SITE, Opener
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


@pytest.mark.parametrize("kind", ["float-bits", "fixed-point"])
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
