"""The built site, page by page. ``make book`` (or ``jupyter-book build . -W --keep-going -n``) writes it first.

Nothing is skipped: without a site, or with one older than its sources, every test fails and says so.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[1]
SITE = ROOT / "_build" / "html"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))
ENTRIES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
NOTEBOOKS = [entry for entry in ENTRIES if (ROOT / f"{entry}.ipynb").exists()]
CLAIMS = re.compile(r"\(claims? [A-Z]\d+[a-z]?(?:(?:, and |, | and )[A-Z]\d+[a-z]?)*\)")
# What a browser fetches by itself: these attributes on these elements, and url(...) or @import in style sheets.
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
    "link": "href",
}
NOT_LOADED = {"next", "prev", "index", "search", "author", "canonical", "alternate", "license"}


def sources() -> list[Path]:
    """Everything that the site is made from."""
    book = [
        p
        for p in (ROOT / "book").rglob("*")
        if p.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(p.parts)
    ]
    return [ROOT / "_config.yml", ROOT / "_toc.yml", *book, *(ROOT / "quantcourse").glob("*.py")]


def page_path(entry: str) -> Path:
    return SITE / f"{entry}.html"


@cache
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf8"), "html.parser")


@cache
def anchors(path: Path) -> set[str]:
    return {e["id"] for e in soup(path).select("[id]")} | {a["name"] for a in soup(path).select("a[name]")}


@pytest.fixture(scope="session", autouse=True)
def site() -> Path:
    """The site, if it is there and up to date."""
    index = page_path(TOC["root"])
    if not index.exists():
        pytest.fail(f"There is no site at {SITE.relative_to(ROOT)}: run `make book` first.", pytrace=False)
    # Copies keep times to the second at best, so one second of grace.
    newer = [p for p in sources() if p.stat().st_mtime > index.stat().st_mtime + 1]
    if newer:
        names = ", ".join(str(p.relative_to(ROOT)) for p in newer[:5])
        pytest.fail(f"The site is older than its sources ({names}): run `make book` again.", pytrace=False)
    return SITE


def all_pages() -> list[Path]:
    return (
        [p for p in sorted(SITE.rglob("*.html")) if "_static" not in p.relative_to(SITE).parts] if SITE.exists() else []
    )


def test_every_entry_of_the_table_of_contents_has_a_page() -> None:
    missing = [entry for entry in ENTRIES if not page_path(entry).exists()]
    assert not missing, f"no page for: {missing}"


def test_every_page_is_in_the_table_of_contents() -> None:
    extra = {"index", "search", "genindex"}
    names = {str(p.relative_to(SITE).with_suffix("")) for p in all_pages()}
    assert names - extra == set(ENTRIES)


def test_links_and_anchors() -> None:
    bad = []
    for page in all_pages():
        for a in soup(page).select("a[href]"):
            url, fragment = urldefrag(a["href"])
            parsed = urlparse(url)
            if parsed.scheme or parsed.netloc:
                continue
            target = (page.parent / unquote(parsed.path)).resolve() if url else page
            if not target.is_file():
                bad.append(f"{page.relative_to(SITE)}: dead link {a['href']}")
            elif fragment and target.suffix == ".html" and unquote(fragment) not in anchors(target):
                bad.append(f"{page.relative_to(SITE)}: dead anchor {a['href']}")
    assert not bad, "\n".join(bad)


def test_ids_are_unique() -> None:
    bad = []
    for page in all_pages():
        ids = [e["id"] for e in soup(page).select("[id]")]
        bad += [
            f"{page.relative_to(SITE)}: id {name!r} occurs {ids.count(name)} times"
            for name in sorted(set(ids))
            if ids.count(name) > 1
        ]
    assert not bad, "\n".join(bad)


def test_nothing_is_loaded_from_another_host_and_nothing_is_missing() -> None:
    bad = []

    def check(where: Path, url: str) -> None:
        parsed = urlparse(url)
        if parsed.scheme == "data" or url.startswith("#"):
            return
        if parsed.netloc or parsed.scheme:
            bad.append(f"{where.relative_to(SITE)}: loads {url}")
        elif not (where.parent / unquote(parsed.path)).exists():
            bad.append(f"{where.relative_to(SITE)}: missing file {url}")

    for page in all_pages():
        for tag, attribute in LOADED.items():
            for element in soup(page).select(f"{tag}[{attribute}]"):
                if tag != "link" or not NOT_LOADED & set(element.get("rel", [])):
                    check(page, element[attribute])
        for element in soup(page).select("[srcset]"):
            for candidate in element["srcset"].split(","):
                check(page, candidate.split()[0])
        for style in [e.get_text() for e in soup(page).select("style")] + [
            e["style"] for e in soup(page).select("[style]")
        ]:
            for url in css_urls(style):
                check(page, url)
    for sheet in SITE.rglob("*.css"):
        for url in css_urls(sheet.read_text("utf8")):
            # The theme's icon fonts are declared but never used; all else that is named must exist.
            check(sheet, url)
    assert not bad, "\n".join(bad)


def css_urls(text: str) -> list[str]:
    """Addresses in url(...) and @import."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    quoted = re.findall(r"""url\(\s*(?:"([^"]*)"|'([^']*)'|([^"')\s][^)]*))\s*\)""", text)
    imports = re.findall(r"""@import\s+["']([^"']+)["']""", text)
    return ["".join(groups).strip() for groups in quoted] + imports


def test_our_own_scripts_name_no_other_host() -> None:
    """What scripts load at run time is watched in tests/browser; here only our own files are read."""
    text = (ROOT / "book" / "_static" / "explorers.js").read_text("utf8")
    hosts = {url for url in re.findall(r"https?://[^\s\"'`)]+", text) if "www.w3.org" not in url}
    assert not hosts


def test_images_have_a_text_alternative() -> None:
    bad = []
    for page in all_pages():
        for img in soup(page).select("article img"):
            alt = img.get("alt", "")
            if len(alt) < 12 or "/" in alt or alt.lower().endswith(".png"):
                bad.append(f"{page.relative_to(SITE)}: alt text {alt!r} of {img['src']}")
        for svg in soup(page).select("article svg"):
            label = svg.get("aria-label") or (svg.title and svg.title.get_text(strip=True))
            if not label and svg.get("aria-hidden") != "true":
                bad.append(f"{page.relative_to(SITE)}: an SVG without aria-label or title")
    assert not bad, "\n".join(bad)


def test_headings_are_in_order() -> None:
    bad = []
    for page in all_pages():
        levels = [int(h.name[1]) for h in soup(page).select("main :is(h1, h2, h3, h4, h5, h6)")]
        if levels.count(1) != 1 or levels[0] != 1:
            bad.append(f"{page.relative_to(SITE)}: needs one h1, first of all; got levels {levels}")
        bad += [f"{page.relative_to(SITE)}: h{b} follows h{a}" for a, b in itertools.pairwise(levels) if b > a + 1]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("entry", ENTRIES)
def test_title_language_and_description(entry: str) -> None:
    page = soup(page_path(entry))
    assert page.html["lang"] == "en"
    title = page.title.get_text(strip=True)
    assert title, "the page has no title"
    heading = page.h1.get_text(" ", strip=True)
    assert page.select_one('meta[name="viewport"]'), "phones need the viewport element"
    words = [w for w in re.findall(r"\w+", title.split("—")[0]) if not w.isdigit()]
    assert all(word in heading for word in words), f"title {title!r} and heading {heading!r} differ"


def test_titles_are_distinct() -> None:
    titles = [soup(page_path(entry)).title.get_text(strip=True) for entry in ENTRIES]
    assert len(set(titles)) == len(titles), titles


@pytest.mark.parametrize("entry", NOTEBOOKS)
def test_notebook_can_be_downloaded(entry: str) -> None:
    link = soup(page_path(entry)).select_one("a.qc-notebook[download]")
    assert link, "no download link in the page header"
    target = (page_path(entry).parent / unquote(link["href"])).resolve()
    assert target.is_file(), f"dead download link {link['href']}"
    assert target.read_bytes() == (ROOT / f"{entry}.ipynb").read_bytes()


@pytest.mark.parametrize("entry", ENTRIES)
def test_claims_are_linked(entry: str) -> None:
    """Every id in `(claim A8)` leads to its row."""
    article = soup(page_path(entry)).article
    links = article.select("a.qc-claim")
    for link in links:
        claim = link.get_text(strip=True)
        target, fragment = urldefrag(link["href"])
        assert fragment == f"claim-{claim.lower()}", link
        assert not target or Path(target).stem == "critical_reading", link
    # Headings, code and figures keep the words as they are.
    leaves = [e for e in article.select("p, li, td, dd") if not e.select("p, li, td, dd")]
    text = " ".join("".join(leaf.find_all(string=True)) for leaf in leaves)
    cited = sorted(c for group in CLAIMS.findall(text) for c in re.findall(r"[A-Z]\d+[a-z]?", group))
    linked = sorted(link.get_text(strip=True) for leaf in leaves for link in leaf.select("a.qc-claim"))
    assert cited == linked, f"cited {cited}, linked {linked}"


@pytest.mark.parametrize("entry", NOTEBOOKS)
def test_source_cells_are_highlighted_as_python(entry: str) -> None:
    for block in soup(page_path(entry)).select(".tag_source .cell_output div[class*=highlight-]"):
        assert "highlight-python" in block["class"]
        assert block.select(".k, .kn, .nf, .nc"), "no keyword is marked in a print-out of source code"


@pytest.mark.parametrize("entry", NOTEBOOKS)
def test_exercises_have_folded_solutions(entry: str) -> None:
    page = soup(page_path(entry))
    solutions = page.select(".solution")
    assert len(solutions) == len(page.select("div.exercise"))
    for box in solutions:
        assert box.name == "details", "a solution is not folded"
        assert box.summary and box.summary.get_text(strip=True).startswith("Solution"), "a solution has no title"


def test_map_shows_every_part_and_links_every_chapter() -> None:
    figure = soup(page_path(TOC["root"])).select_one(".qc-map svg")
    text = " ".join(figure.get_text(" ", strip=True).split())
    links = {Path(a["href"]).stem for a in figure.select("a[href]")}
    for part in TOC["parts"]:
        if part.get("numbered"):
            assert part["caption"] in text
            chapters = {Path(chapter["file"]).stem for chapter in part["chapters"]}
            assert chapters <= links, f"{chapters - links} are in _toc.yml and not linked in the map"
    assert len(figure.select(".qc-ready")) == sum(bool(part.get("numbered")) for part in TOC["parts"])
    assert len(figure.select(".qc-ready, .qc-planned")) == 8


def test_no_launch_button_while_there_is_no_address() -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
    if not config.get("repository"):
        assert not [p for p in all_pages() if soup(p).select(".launch-buttons, .dropdown-launch-buttons")]


def test_weight_of_the_fonts() -> None:
    fonts = list((SITE / "_static" / "fonts").glob("*.woff2"))
    assert fonts
    assert sum(p.stat().st_size for p in fonts) < 600_000
    for family in {p.name.split("-latin")[0] for p in fonts}:
        assert "SIL OPEN FONT LICENSE" in (ROOT / "book" / "_static" / "fonts" / f"LICENSE-{family}.txt").read_text(
            "utf8"
        )
    assert "Apache License" in (ROOT / "book" / "_static" / "vendor" / "mathjax" / "LICENSE").read_text("utf8")


def test_clean_build_has_no_warning(tmp_path: Path) -> None:
    """A build from nothing, in another folder: an incremental one forgets its warnings."""
    copy = tmp_path / "course"
    copy.mkdir()
    for path in [*sources(), ROOT / "quantcourse" / "py.typed"]:
        if path.exists():
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    environment = dict(os.environ, PYTHONPATH=str(copy), NO_COLOR="1")
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        str(copy),
        "-W",
        "--keep-going",
        "-n",
    ]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    report = run.stdout + run.stderr
    warnings = [line for line in report.splitlines() if re.search(r"\b(WARNING|ERROR)\b", line)]
    assert run.returncode == 0 and not warnings, "\n".join(warnings) or report[-3000:]
    assert (copy / "_build" / "html" / f"{TOC['root']}.html").exists()
