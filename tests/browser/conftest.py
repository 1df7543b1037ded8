"""A Chromium, the built site on loopback, and pages that note everything that goes wrong on them."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from xdist.scheduler import LoadScopeScheduling

import programs  # tools/programs.py

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
PAGES = sorted(str(p.relative_to(SITE)) for p in SITE.rglob("*.html") if "_static" not in p.relative_to(SITE).parts)
CONTENT = [page for page in PAGES if page != "index.html"]  # index.html leads to the first page at once
LOOKS = [("light", 1280), ("dark", 1280), ("light", 375), ("dark", 375)]
AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
CHROMIUM_OPTIONS = [
    "--no-sandbox",  # the tests open only this site, and in containers the sandbox does not start
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing leaves this machine
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]

# Elements that stick out of the page, less those inside a box that scrolls or clips on its own, and less the drawer
# with the contents of the page, which waits beside the window.
OVERFLOW = """() => {
  const root = document.documentElement, wide = root.clientWidth + 1, found = [];
  if (root.scrollWidth > wide) found.push(`the page is ${root.scrollWidth} wide in a window of ${root.clientWidth}`);
  const inABox = e => { for (; e && e !== document.body; e = e.parentElement) if (getComputedStyle(e).overflowX !== "visible") return true; };
  for (const e of document.querySelectorAll("main :not(.bd-sidebar-secondary, .bd-sidebar-secondary *)")) {
    const box = e.getBoundingClientRect();
    if (box.width && box.right > wide && !inABox(e.parentElement))
      found.push(`${e.tagName.toLowerCase()}.${[...e.classList].join(".")} ends at ${Math.round(box.right)}`);
  }
  return found.slice(0, 8);
}"""
MATH = """() => ({
  sources: document.querySelectorAll("article .math").length,
  rendered: document.querySelectorAll("mjx-container").length,
  errors: [...document.querySelectorAll("mjx-merror, [data-mml-node=merror]")].map(e => e.textContent),
  raw: /\\\\\\(|\\\\\\[|\\$\\$/.test([...document.querySelectorAll("article :is(p, li, td, h2, h3)")].map(e => e.innerText).join(" ")),
})"""


# Contrast, the slowest rule, does not depend on the width of the window. The insides of formulas are MathJax's own, but
# are looked at too: to leave them out, axe compares every element with every formula, and that takes longer.
RUN_AXE = """([rules, contrast]) => axe.run(
  document,
  { runOnly: rules, resultTypes: ["violations"], rules: { "color-contrast": { enabled: contrast } } },
)"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each page; without a site one test, which fails in the fixture `site`."""
    if "path" in metafunc.fixturenames:
        metafunc.parametrize("path", CONTENT or ["no site"])


class ByPage(LoadScopeScheduling):
    """Gives all tests of a page to one process, which visits it once, and every other test to the first free one."""

    def _split_scope(self, nodeid: str) -> str:
        return next((page for page in CONTENT if f"[{page}" in nodeid), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByPage:
    return ByPage(config, log)


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # one connection for many files

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """Address of the site, served for as long as the tests run."""
    if not CONTENT:
        pytest.fail("There is no site in _build/html: run `make book` first.", pytrace=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(SITE))) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = programs.find("chromium")
    if not path:
        pytest.fail(
            "No Chromium on the path and none named in CHROMIUM: `make test-browser` says how to get one.",
            pytrace=False,
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """An open page and what went wrong on it."""

    page: Page
    troubles: list[str] = field(default_factory=list)

    def watch(self, site: str) -> None:
        page, troubles = self.page, self.troubles
        ours = (site, "data:", "blob:")
        page.on("request", lambda r: r.url.startswith(ours) or troubles.append(f"request to another host: {r.url}"))
        page.on("console", lambda m: m.type in ("error", "warning") and troubles.append(f"console {m.type}: {m.text}"))
        page.on("pageerror", lambda error: troubles.append(f"script error: {error}"))
        # "Aborted" means that the page was left before a file came; a missing file has a status.
        page.on("requestfailed", lambda r: r.failure == "net::ERR_ABORTED" or troubles.append(f"failed: {r.url}"))
        page.on("response", lambda r: r.status >= 400 and troubles.append(f"status {r.status}: {r.url}"))


class Opener:
    """Opens pages; pages of one look share a context and so its cache, but nothing stored from a test is kept."""

    def __init__(self, browser: Browser, site: str) -> None:
        self.browser, self.site = browser, site
        self.contexts: dict[tuple[int, str, bool], BrowserContext] = {}

    def __call__(self, path: str, width: int = 1280, scheme: str = "light", javascript: bool = True) -> Visit:
        key = (width, scheme, javascript)
        if key not in self.contexts:
            self.contexts[key] = self.browser.new_context(
                viewport={"width": width, "height": 900 if width > 600 else 740},
                color_scheme=scheme,
                java_script_enabled=javascript,
                reduced_motion="reduce",
            )
        visit = Visit(self.contexts[key].new_page())
        visit.watch(self.site)
        visit.page.goto(f"{self.site}/{path}", wait_until="load")
        if javascript:
            visit.page.evaluate("async () => { await window.MathJax?.startup?.promise; await document.fonts.ready; }")
        return visit


@pytest.fixture(scope="session")
def opener(browser: Browser, site: str) -> Opener:
    return Opener(browser, site)


@pytest.fixture
def open_page(opener: Opener) -> Iterator[Opener]:
    """The opener; what a test leaves open is closed, and stored settings are forgotten."""
    before = [page for context in opener.contexts.values() for page in context.pages]
    yield opener
    for (_, _, javascript), context in opener.contexts.items():
        for page in [page for page in context.pages if page not in before]:
            if javascript and page.url.startswith(opener.site):
                page.evaluate("localStorage.clear()")
            page.close()


Look = tuple[str, int]


@pytest.fixture(scope="session")
def looks(opener: Opener) -> dict[str, dict[Look, dict[str, Any]]]:
    """What was found on each page in each look; a page is visited once for all tests, when the first asks for it."""
    axe = AXE.read_text("utf8")

    @cache
    def look_at(path: str) -> dict[Look, dict[str, Any]]:
        found = {}
        for scheme, width in LOOKS:
            visit = opener(path, width=width, scheme=scheme)
            page = visit.page
            # What is folded is looked at too.
            page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
            math = page.evaluate(MATH)
            theme = page.evaluate("document.documentElement.dataset.theme")
            page.evaluate(axe)
            result = page.evaluate(RUN_AXE, [RULES, width > 600])
            overflow = page.evaluate(OVERFLOW)
            if width < 600:
                page.set_viewport_size({"width": 360, "height": 740})
                overflow += page.evaluate(OVERFLOW)
            found[scheme, width] = {
                "troubles": list(visit.troubles), "math": math, "theme": theme, "violations": result["violations"], "passes": len(result["passes"]), "overflow": overflow,
            }  # fmt: skip
            page.close()
        return found

    class Pages(dict[str, dict[Look, dict[str, Any]]]):
        def __missing__(self, path: str) -> dict[Look, dict[str, Any]]:
            return look_at(path)

    return Pages()
