"""Local Sphinx extension of the course.

- `(claim A8)` and `(claims A8, A9)` in prose link to the rows of the page that judges those claims.
- Outputs of cells tagged `source` (they print source code of the package) are highlighted as Python.
- Solutions fold with plain `<details>`, which work by keyboard and without JavaScript.
- A chapter's title is preceded by its part and number.
- Wide tables scroll in a box of their own, and small defects of the HTML are repaired.
- The first address of the site, `index.html`, leads to the first page.
- An image without a text alternative is a warning, so it fails the build.
"""

import re
from html import escape
from pathlib import Path

from bs4 import BeautifulSoup
from docutils import nodes
from sphinx import addnodes
from sphinx.util import logging

log = logging.getLogger(__name__)

CLAIMS = re.compile(r"\(claims? ([A-Z]\d+[a-z]?(?:(?:, and |, | and )[A-Z]\d+[a-z]?)*)\)")
HIDDEN = "\ue000"  # a private character that stands for a colon between the two functions below
CLAIM = re.compile(r"[A-Z]\d+[a-z]?")


def link_claims(app, doctree):
    """Make every id in `(claim A8)` a reference to the target `claim-a8`; Sphinx warns if there is none."""
    for text in list(doctree.findall(nodes.Text)):
        if not CLAIMS.search(text) or any_parent(
            text, nodes.literal, nodes.literal_block, nodes.raw, nodes.title, nodes.math
        ):
            continue
        parts, end = [], 0
        for group in CLAIMS.finditer(text):
            for claim in CLAIM.finditer(text, *group.span(1)):
                parts += [nodes.Text(text[end : claim.start()]), claim_reference(app, claim[0], text)]
                end = claim.end()
        text.parent.replace(text, [*parts, nodes.Text(text[end:])])


def claim_reference(app, claim, text):
    target = f"claim-{claim.lower()}"
    ref = addnodes.pending_xref("", refdomain="std", reftype="ref", reftarget=target, refexplicit=True, refwarn=True)
    ref["refdoc"] = app.env.docname
    ref.source, ref.line = text.parent.source, text.parent.line
    ref += nodes.inline("", claim)
    return ref


def any_parent(node, *kinds):
    while node := node.parent:
        if isinstance(node, kinds):
            return True
    return False


def highlight_source(app, doctree):
    """Print-outs of source code are Python, not plain text."""
    for cell in doctree.findall(nodes.container):
        if "tag_source" in cell["classes"]:
            for block in cell.findall(nodes.literal_block):
                if "output" in block["classes"]:
                    block["language"] = "python"


def check_alt(app, doctree, docname):
    if app.builder.format != "html":
        return
    for image in doctree.findall(nodes.image):
        if not image.get("alt"):
            log.warning(
                "image without alt text (cell metadata mystnb.image.alt)", location=image, type="course", subtype="alt"
            )


def part_of(app, pagename):
    """Caption of the part of _toc.yml that holds the page, or None."""
    site = getattr(app.env, "external_site_map", None) or app.config.external_site_map
    for tree in site.root.subtrees:
        if pagename in list(tree.items):
            return tree.caption
    return None


def repair_page(app, pagename, templatename, context, doctree):
    """Rewrite the body of a page; one parse for all of it."""
    if not context.get("body"):
        return
    soup = BeautifulSoup(context["body"], "html.parser")

    # A line must not break between a formula and the punctuation behind it.
    for formula in soup.select("span.math"):
        behind = formula.next_sibling
        if mark := isinstance(behind, str) and re.match("[.,;:!?)’”]+", behind):
            formula.wrap(soup.new_tag("span", attrs={"class": "qc-together"})).append(mark[0])
            behind.replace_with(behind[mark.end() :])

    # Roles of sphinxcontrib-bibtex's lists that ARIA has withdrawn.
    for entry in soup.select('[role="doc-biblioentry"]'):
        del entry["role"]
    for citations in soup.select('div.citation-list[role="list"]'):
        del citations["role"]
    for summary in soup.select("summary[aria-label]"):
        del summary["aria-label"]

    for link in soup.select('a[href*="#claim-"]'):
        if CLAIM.fullmatch(link.get_text(strip=True)):
            link["class"] = [*link.get("class", []), "qc-claim"]
    # sphinx-exercise gives the same id to all exercises of a page.
    for section in soup.select("#exercise-content, #solution-content"):
        del section["id"]

    # Folded solutions. The link in the title goes: a click on it should open the solution.
    for box in soup.select("div.admonition.dropdown"):
        box.name = "details"
        title = box.select_one("p.admonition-title")
        title.name = "summary"
        for link in title.select("a"):
            link.replace_with(" " + link.get_text())

    # Tables scroll on their own when the screen is narrower. Keyboards must reach what scrolls.
    for number, table in enumerate(soup.select("table"), 1):
        if table.find_parent(class_="qc-scroll") or "field-list" in table.get("class", []):
            continue
        caption = table.find("caption")
        name = caption.get_text(" ", strip=True).rstrip("#") if caption else f"Table {number} of this page"
        box = soup.new_tag("div", attrs={"class": "qc-scroll", "tabindex": "0", "role": "region", "aria-label": name})
        table.wrap(box)
        for cell in table.select("thead th"):
            if cell.get_text(strip=True) or cell.find("img"):
                cell["scope"] = "col"
            else:  # an empty corner is no header
                cell.name = "td"

    number = soup.select_one("h1 > .section-number")
    if number:
        part = part_of(app, pagename)
        digits = number.get_text(strip=True).rstrip(".")
        number.clear()
        number.append(f"{part} · Chapter {digits} " if part else f"Chapter {digits} ")
        number["class"] = ["qc-kicker"]
    context["body"] = str(soup)


def hide_colon(app, what, name, obj, options, lines):
    """Napoleon would read the first line "Gap: 2**-f" of a property or constant as "type: text"; hide the colon from it."""
    if what in ("attribute", "data", "property"):
        lines[:1] = [line.replace(":", HIDDEN) for line in lines[:1]]


def show_colon(app, what, name, obj, options, lines):
    lines[:] = [line.replace(HIDDEN, ":") for line in lines]


def share_handlers(app):
    """Some extension registers nodes for 'singlehtml', which hides every handler registered for 'html' alone."""
    handlers = app.registry.translation_handlers
    for name, pair in handlers.get("html", {}).items():
        handlers.setdefault("singlehtml", {}).setdefault(name, pair)


FRONT_DOOR = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1" />
<meta http-equiv="refresh" content="0; url={page}" />
<link rel="icon" href="data:," />
</head>
<body><main><h1>{title}</h1><p>The course starts at <a href="{page}">{page}</a>.</p></main></body>
</html>
"""


def write_front_door(app, exception):
    """Jupyter Book writes a bare redirect when there is no index.html; this one has a title, a language and a link."""
    if exception is None and app.builder.format == "html" and app.config.root_doc != "index":
        page = app.builder.get_target_uri(app.config.root_doc)
        door = FRONT_DOOR.format(title=escape(app.config.project), page=escape(page))
        (Path(app.outdir) / "index.html").write_text(door, "utf8")


def setup(app):
    app.connect("builder-inited", share_handlers)
    app.connect("doctree-read", link_claims)
    app.connect("doctree-read", highlight_source)
    app.connect("doctree-resolved", check_alt)
    app.connect("autodoc-process-docstring", hide_colon, priority=400)  # napoleon works at 500
    app.connect("autodoc-process-docstring", show_colon, priority=600)
    app.connect("html-page-context", repair_page, priority=900)
    app.connect("build-finished", write_front_door)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
