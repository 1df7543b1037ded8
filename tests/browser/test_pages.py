"""Every page in Chromium: no errors, no other hosts, math rendered, accessible, nothing wider than a phone."""

import json
from typing import Any

import pytest

from conftest import LOOKS, SITE, Look, Opener

Pages = dict[str, dict[Look, dict[str, Any]]]


def test_opens_without_trouble(path: str, looks: Pages) -> None:
    """No message on the console, no failed request, no request to another host, in any look."""
    troubles = {f"{look}: {trouble}" for look, found in looks[path].items() for trouble in found["troubles"]}
    assert not troubles, "\n".join(sorted(troubles))


def test_math_is_rendered(path: str, looks: Pages) -> None:
    math = looks[path]["light", 1280]["math"]
    assert math["rendered"] >= math["sources"], f"{math['sources']} formulas in the page, {math['rendered']} rendered"
    assert not math["errors"], f"formulas with errors: {math['errors']}"
    assert not math["raw"], "raw TeX is left in the text"


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_accessible(path: str, scheme: str, width: int, looks: Pages) -> None:
    """axe-core: WCAG 2.2 at levels A and AA, and best practice."""
    found = looks[path][scheme, width]
    assert found["theme"] == scheme, "the page does not follow the system's color scheme"
    assert found["passes"] > 15, "axe-core checked next to nothing"
    bad = [
        f"{v['id']} ({v['impact']}): {v['help']}\n    {node['target']} {node['html'][:160]}\n    {node['failureSummary'][:300]}"
        for v in found["violations"]
        for node in v["nodes"][:4]
    ]
    assert not bad, "\n".join(bad)


def test_fits_the_window(path: str, looks: Pages) -> None:
    """At 1280, 375 and 360 pixels nothing sticks out; wide tables, formulas and code scroll in their own box."""
    bad = [f"{look}: {line}" for look, found in looks[path].items() for line in found["overflow"]]
    assert not bad, "\n".join(bad)


def test_front_door(open_page: Opener) -> None:
    visit = open_page("book/references.html")
    visit.page.goto(f"{open_page.site}/index.html", wait_until="commit")
    visit.page.wait_for_url("**/book/index.html")
    assert not visit.troubles, "\n".join(visit.troubles)


def test_fonts_are_ours(open_page: Opener) -> None:
    page = open_page("book/index.html").page
    faces = page.evaluate("[...document.fonts].map(f => [f.family.replaceAll('\"', ''), f.style, f.status])")
    ours = [face for face in faces if face[0].startswith("Source")]
    assert not [face for face in ours if face[2] == "error"], ours
    assert ["Source Serif", "normal", "loaded"] in ours, ours
    assert ["Source Sans", "normal", "loaded"] in ours, ours


def test_theme_switch_and_search(open_page: Opener) -> None:
    visit = open_page("book/index.html")
    page = visit.page
    button = page.locator(".theme-switch-button:visible").first
    seen = set()
    for _ in range(3):
        button.click()
        seen.add(page.evaluate("document.documentElement.dataset.mode"))
    assert seen == {"light", "dark", "auto"}
    page.keyboard.press("Control+k")
    field = page.locator("#pst-search-dialog input")
    field.fill("subnormal")
    field.press("Enter")
    page.wait_for_url("**/search.html?q=subnormal")
    page.locator("#search-results li").first.wait_for()
    assert not visit.troubles, "\n".join(visit.troubles)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_follow_the_page(scheme: str, open_page: Opener) -> None:
    """Drawn black on white; on a dark page the lightness is turned round and the hues are kept."""
    page = open_page("book/floats.html", scheme=scheme).page
    figures = page.evaluate("[...document.querySelectorAll('.cell_output img')].map(i => getComputedStyle(i).filter)")
    assert figures
    assert set(figures) == {"none" if scheme == "light" else "invert(1) hue-rotate(180deg)"}


def test_site_opens_from_the_file_system(open_page: Opener) -> None:
    """Without any server: math and interactive figures too."""
    chapters = [p for p in sorted(SITE.glob("book/*.html")) if "data-explorer" in p.read_text("utf8")]
    assert chapters, "no chapter has an interactive figure"
    page = open_page("book/index.html").page.context.new_page()
    troubles: list[str] = []
    page.on("console", lambda m: m.type == "error" and troubles.append(m.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or troubles.append(f"request: {r.url}"))
    page.goto(chapters[0].as_uri())
    page.evaluate("async () => { await window.MathJax?.startup?.promise; }")
    assert page.locator("mjx-container").count() > 0
    assert page.locator(".qc-explorer output").count() > 0
    assert not troubles, "\n".join(troubles)


def test_notebook_link_downloads_a_notebook(open_page: Opener) -> None:
    pages = [p for p in sorted(SITE.glob("book/*.html")) if "qc-notebook" in p.read_text("utf8")]
    assert pages, "no page offers its notebook"
    page = open_page(f"book/{pages[0].name}").page
    with page.expect_download() as download:
        page.locator("a.qc-notebook").click()
    assert json.loads(download.value.path().read_text("utf8"))["nbformat"] == 4


@pytest.mark.parametrize("javascript", [True, False], ids=["with", "without"])
def test_solutions_unfold_by_keyboard(javascript: bool, open_page: Opener) -> None:
    pages = [p.name for p in sorted(SITE.glob("book/*.html")) if 'class="solution' in p.read_text("utf8")]
    assert pages, "no page has a solution"
    page = open_page(f"book/{pages[0]}", javascript=javascript).page
    box = page.locator(".solution").first
    assert box.evaluate("e => e.tagName") == "DETAILS", "the solution is not folded"
    assert box.get_attribute("open") is None, "the solution is open from the start"
    box.locator("summary").focus()
    page.keyboard.press("Enter")
    assert box.get_attribute("open") is not None, "Enter does not open the solution"
