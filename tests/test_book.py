"""The text: the frame of a chapter, numbers, claims, symbols, words, citations, and what no file may hold."""

import itertools
import os
import re
from pathlib import Path

import pytest
import yaml
from pybtex.database import parse_file

import claims
import prose

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))
CHAPTERS = [
    ROOT / f"{chapter['file']}.ipynb" for part in TOC["parts"] if part.get("numbered") for chapter in part["chapters"]
]
NOTEBOOKS = sorted(p for p in BOOK.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
PAGES = NOTEBOOKS + sorted(p for p in BOOK.rglob("*.md") if not {"_static", ".ipynb_checkpoints"} & set(p.parts))

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
each_page = pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)


def markdown(path: Path) -> list[str]:
    return prose.markdown(prose.load(path)) if path.suffix == ".ipynb" else [path.read_text("utf8")]


# The frame of a chapter

CARD = re.compile(r"^:{3,}\{admonition\} About this chapter\n:class: qc-card\n(.*?)\n:{3,}$", re.DOTALL | re.MULTILINE)
DIRECTIVE = re.compile(
    r"^(?P<mark>`{3,}|:{3,})\{(?P<name>exercise|solution)-(?P<end>start|end)\}[ ]*(?P<argument>.*)\n"
    r"(?P<options>(?:^:[\w-]+:.*\n)*)^(?P=mark)$",
    re.MULTILINE,
)
LAST = ["Where it breaks", "Summary", "Exercises", "Further reading"]


def headings(source: str) -> list[tuple[int, str]]:
    found = re.findall(r"(?m)^(#{1,6})\s+(.*?)\s*#*$", prose.unfenced(source))
    return [(len(marks), title) for marks, title in found]


def sections(cells: list[prose.Json]) -> list[tuple[str, list[prose.Json]]]:
    """The second-level headings and what follows each, code cells and markdown; a cell may hold several headings."""
    found: list[tuple[str, list[prose.Json]]] = [("", [])]
    for cell in cells:
        if cell["cell_type"] == "code":
            found[-1][1].append(cell)
            continue
        for part in re.split(r"(?m)^(?=##\s)", cell["source"]):
            title = re.match(r"##\s+(.*?)\s*$", part, re.MULTILINE)
            if title:
                found.append((title[1], []))
            found[-1][1].append({**cell, "source": part})
    return found[1:]


def frame(cells: list[prose.Json], chapter: str) -> list[str]:
    """What a chapter lacks of its frame."""
    lacks = []
    titles = [title for source in prose.markdown(cells) for title in headings(source)]
    first = cells[0]["source"] if cells and cells[0]["cell_type"] == "markdown" else ""
    if not first.startswith("# ") or [level for level, _ in titles].count(1) != 1:
        lacks.append("one title, at the start of the first cell")
    if any(after > before + 1 for (before, _), (after, _) in itertools.pairwise(titles)):
        lacks.append("headings without a skipped level")

    card = CARD.search(first)
    leads = re.findall(r"^\*\*(You will be able to|You need|Time)\*\*", card[1], re.MULTILINE) if card else []
    if leads != ["You will be able to", "You need", "Time"]:
        lacks.append("a card `About this chapter` in the first cell: You will be able to, You need, Time")
    elif len(re.findall(r"^[-*] ", card[1].split("**You need**")[0], re.MULTILINE)) < 2:  # type: ignore[index]
        lacks.append("at least two bullets under You will be able to")

    parts = sections(cells)
    names = [title for title, _ in parts]
    if not parts or not names[0].endswith("?") or not any(c["cell_type"] == "code" for c in parts[0][1]):
        lacks.append("a first section whose heading asks the question and which runs the failing example")
    if not any(title.startswith("Experiment") for title in names):
        lacks.append("a section Experiment")
    if names[-4:] != LAST:
        lacks.append(f"the last sections {', '.join(LAST)}")
    for title, content in parts:
        if not any(c["source"].split("\n", 1)[-1].strip() for c in content):
            lacks.append(f"something under {title!r}")

    showing = [c for c in cells if c["cell_type"] == "code" and "show_source(" in c["source"]]
    tagged = [c for c in cells if c["cell_type"] == "code" and "source" in prose.tags(c)]
    if not showing or showing != tagged:
        lacks.append(
            "cells that show the package's source with show_source, all of them tagged `source`, and no others"
        )

    content = dict(parts)
    lacks += exercises(content.get("Exercises", []), chapter)
    if len(list(filter(DIRECTIVE.search, prose.markdown(cells)))) != len(
        list(filter(DIRECTIVE.search, prose.markdown(content.get("Exercises", []))))
    ):
        lacks.append("exercises under Exercises alone")
    if not any("{cite" in source for source in prose.markdown(content.get("Further reading", []))):
        lacks.append("a citation under Further reading")
    return lacks


def exercises(cells: list[prose.Json], chapter: str) -> list[str]:
    """What the section of exercises lacks: pairs of an exercise and its solution, each solution with code that runs."""
    lacks = []
    marks: list[tuple[str, str, str]] = []  # what, argument, options; code cells in between
    for cell in cells:
        if cell["cell_type"] == "code":
            marks.append(("code", "", ""))
        else:
            marks += [
                (f"{m['name']}-{m['end']}", m["argument"].strip(), m["options"])
                for m in DIRECTIVE.finditer(cell["source"])
            ]
    what = " ".join(name for name, _, _ in marks)
    pair = r"exercise-start (?:code )*exercise-end solution-start (?:code )+solution-end "
    if not re.fullmatch(f"(?:{pair})*", what + " "):
        lacks.append(f"exercises each followed by a solution with a code cell; there are: {what}")
    starts = [(argument, options) for name, argument, options in marks if name == "exercise-start"]
    labels = [(re.findall(r"^:label: (\S+)$", options, re.MULTILINE) or [""])[0] for _, options in starts]
    if not 3 <= len(starts) <= 6:
        lacks.append(f"3 to 6 exercises; there are {len(starts)}")
    if not all(argument for argument, _ in starts):
        lacks.append("a title for every exercise")
    stem = chapter.split("_")[0]
    if not all(re.fullmatch(rf"ex-{stem}[_-][a-z0-9_-]+", label) for label in labels) or len(set(labels)) < len(labels):
        lacks.append(f"a label ex-{stem}-... of its own for every exercise; there are {labels}")
    solved = [(argument, options) for name, argument, options in marks if name == "solution-start"]
    if [argument for argument, _ in solved] != labels:
        lacks.append("solutions that name the exercise before them")
    if not all(":class: dropdown" in options for _, options in solved):
        lacks.append(":class: dropdown on every solution")
    return lacks


def chapter() -> list[prose.Json]:
    """The smallest chapter that has the whole frame, for a notebook named ``tiny_one``."""

    def text(source: str) -> prose.Json:
        return {"cell_type": "markdown", "source": source, "metadata": {}}

    def code(source: str, *tags: str) -> prose.Json:
        return {"cell_type": "code", "source": source, "metadata": {"tags": list(tags)}, "outputs": []}

    leads = "**You will be able to**\n- do,\n- think.\n\n**You need** time.\n\n**Time** 1 hour."
    cells = [
        text(f"# Title\n\n:::{{admonition}} About this chapter\n:class: qc-card\n{leads}\n:::"),
        text("## Why so?\n\nBecause."),
        code("fail()"),
        text("## Experiment: it\n\nTry."),
        code("show_source(f)", "source"),
        text("## Where it breaks\n\nHere.\n\n## Summary\n\nThus.\n\n## Exercises\n\nThree."),
    ]
    for label in ("ex-tiny-a", "ex-tiny-b", "ex-tiny-c"):
        cells += [
            text(f"```{{exercise-start}} Do it\n:label: {label}\n```\nDo.\n\n```{{exercise-end}}\n```"),
            text(f"```{{solution-start}} {label}\n:class: dropdown\n```\nSo."),
            code("do()"),
            text("```{solution-end}\n```"),
        ]
    return [*cells, text("## Further reading\n\nSee {cite}`x`.")]


def test_a_whole_frame_is_accepted() -> None:
    assert frame(chapter(), "tiny_one") == []


@pytest.mark.parametrize(
    ("old", "new", "lacks"),
    [
        ("# Title", "Title", "one title"),
        ("## Why so?", "# Why so?", "one title"),
        ("## Summary", "#### Detail\n\n## Summary", "skipped level"),
        (":class: qc-card", ":class: card", "a card"),
        ("**You need**", "**You want**", "a card"),
        ("**Time**", "Time", "a card"),
        ("- do,\n", "", "two bullets"),
        ("Why so?", "Why so", "asks the question"),
        ("fail()", None, "failing example"),
        ("## Experiment", "## Trial", "a section Experiment"),
        ("## Summary\n\nThus.\n\n", "", "the last sections"),
        ("## Exercises", "## Problems", "the last sections"),
        ("Thus.", "", "something under 'Summary'"),
        ("show_source(f)", "print(f)", "show_source"),
        ("show_source(f)", None, "show_source"),
        ("fail()", "show_source(g)", "show_source"),
        ("do()", None, "a solution with a code cell"),
        ("```{exercise-end}\n```", "", "exercises each followed"),
        ("```{solution-end}\n```", "x", "exercises each followed"),
        ("ex-tiny-b", "ex-other-b", "a label ex-tiny"),
        ("ex-tiny-b", "ex-tiny-a", "a label ex-tiny"),
        ("start} ex-tiny-b", "start} ex-tiny-c", "name the exercise"),
        ("start} Do it", "start}", "a title for every exercise"),
        (":class: dropdown", ":class: open", "dropdown"),
        ("Because.", "```{exercise-start} Early\n:label: ex-tiny-e\n```", "under Exercises alone"),
        ("{cite}`x`", "the paper", "a citation under Further reading"),
    ],
)
def test_what_a_frame_lacks_is_seen(old: str, new: str | None, lacks: str) -> None:
    """``new`` takes the place of ``old`` in the smallest chapter; None takes the whole cell out."""
    cells = chapter()
    assert any(old in cell["source"] for cell in cells)
    if new is None:
        broken = [cell for cell in cells if old not in cell["source"]]
    else:
        broken = [{**cell, "source": cell["source"].replace(old, new)} for cell in cells]
    assert any(lacks in said for said in frame(broken, "tiny_one")), frame(broken, "tiny_one")


@pytest.mark.parametrize("count", [2, 7])
def test_too_few_and_too_many_exercises_are_seen(count: int) -> None:
    cells = chapter()
    one = cells[6:10]
    several = [
        {**cell, "source": cell["source"].replace("ex-tiny-a", f"ex-tiny-{n}")} for n in range(count) for cell in one
    ]
    said = frame([*cells[:6], *several, cells[-1]], "tiny_one")
    assert said == [f"3 to 6 exercises; there are {count}"]


def test_table_of_contents_names_what_exists() -> None:
    assert CHAPTERS
    files = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
    absent = [f for f in files if not ((ROOT / f"{f}.ipynb").exists() or (ROOT / f"{f}.md").exists())]
    assert not absent
    assert {ROOT / f for f in files} == {p.with_suffix("") for p in PAGES}, "a page that the contents do not list"


@each_chapter
def test_frame(path: Path) -> None:
    assert frame(prose.load(path), path.stem) == []


# Numbers


@each_notebook
def test_numbers_in_prose_are_printed_by_a_cell(path: Path) -> None:
    missing = prose.unprinted(prose.load(path))
    assert not missing, "\n" + "\n".join(f"{number}: in {sentence!r}" for number, sentence in missing)


def asked(source: str) -> list[str]:
    return [
        number.written
        for sentence in prose.sentences(source)
        if prose.CITATION not in sentence
        for number in prose.numbers(sentence)
        if number.checked
    ]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("It is 0.5, or .25.", ["0.5", ".25"]),
        ("A sum of 2048 stalls.", ["2048"]),
        ("In all 4,278,190,080 patterns, not 1 of 2.", ["4,278,190,080"]),
        ("About 3.40e38 and 1e5 and 1.4e-45.", ["3.40e38", "1e5", "1.4e-45"]),
        ("That is 49.8 %, 50% or 5 percent.", ["49.8 %", "50%", "5 percent"]),
        ("It is 4x faster, 8 x wider, 2× larger, 3-fold more.", ["4x", "8 x", "2×", "3-fold"]),
        ("It is 4 times as fast, after 5 times 6.", ["4 times as"]),
        ("The range −126..127, [-128, 127].", ["126", "127", "128", "127"]),
        ("An image of 224x224 or 3 x 3 pixels.", ["224", "224"]),
        ("A 128-bit word ends at 0x7F80.", ["128", "0x7F80"]),
        ("**2048** and _4096_ and (100).", ["2048", "4096", "100"]),
        ("10. The tenth item.\n100. Not text.", []),
        ("- First 100\n- second 200", ["100", "200"]),
        ("| a | b |\n|---|---|\n| 100 | 200 |", ["100", "200"]),
        ("| a {cite}`x` | b |\n|---|---|\n| 100 | 200 |", []),
        ("> A quoted 100.", ["100"]),
        (":::{admonition} Title 100\n:class: c-200\nBody 300.\n:::", ["300"]),
        ("````{note}\nBody 300.\n```python\nx = 400\n```\nMore 500.\n````", ["300", "500"]),
        ("It was new in 2019. So it says {cite}`a,b` in 1985.", ["2019"]),
        ("It was 2019. {cite:p}`a` Then came 300.", ["300"]),
        ("Faster by 2.5. Then 300 {cite}`a`; and 400. Last 500.", ["2.5", "500"]),
        ("<div data-x='100' class=\"q\">Without JavaScript: 200.</div>", ["200"]),
        ("<div>Use <code>round(0.5)</code>.</div>", []),
        ("Use it with care, e.g. 300 of them.", ["300"]),
        # and what is no number in prose
        ("FP16, E4M3, INT8, ResNet-101, VGG-16, Q3.4, x1024, A18b, IEEE 754-2019, Python 3.11, torch 2.13.0.", []),
        ("One 1, two 22, 3D, 16 bits, 1-8-23.", []),
        ("Code `100` and ``a ` 200`` and\n\n```python\n300\n```\n\n~~~\n400\n~~~\n", []),
        ("Math $100 + x$ and\n\n$$ 200 $$ (eq:x)\n\nand \\begin{align}300\\end{align}.", []),
        ("```{math}\n:label: l-100\n200\n```", []),
        ("# Title 100\n\n## On 200 things", []),
        ("# Title 100\n\nThen 200.\n\n## On 300 things\nThen 400.", ["200", "400"]),
        ("See [chapter 100](x-200.md), ![300](y) and <https://a.b/400> and https://a.b/500.", []),
        ("See {eq}`eq-100`, {ref}`text 200 <l>` and {term}`300`.", []),
        ("(label-100)=\n% comment 200\n<!-- 300 -->\n+++ 400", []),
        ("(label-100)=\nA 1000.\n% comment 200\nA 2000.\n<!-- 300\n-->\nA 3000.", ["1000", "2000", "3000"]),
        ("[x]: y-100\nA 1000.\n+++ 400\nA 2000.", ["1000", "2000"]),
        ("The note says so (claims A100, B200).", []),
        ("<svg viewBox='0 0 100 100'><text>200</text></svg>", []),
        ("```{exercise-start} Title 100\n:label: ex-200\n```\n", []),
    ],
)
def test_which_numbers_are_asked_for(source: str, found: list[str]) -> None:
    assert asked(source) == found


def notebook(source: str, *outputs: str, tag: str = "x", html: str = "") -> list[prose.Json]:
    stored = [{"output_type": "stream", "name": "stdout", "text": [text]} for text in outputs]
    stored.append({"output_type": "display_data", "data": {"text/html": html}})  # type: ignore[dict-item]
    return [
        {"cell_type": "markdown", "source": source, "metadata": {}},
        {"cell_type": "code", "source": "", "metadata": {"tags": [tag]}, "outputs": stored},
    ]


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("It is 65504.", "65504.0"),
        ("It is 65,504.", "max 65504"),
        ("It is 65504.", "65,504\n"),
        ("It is 3.40e38.", "3.4e+38"),
        ("It is 1.4e-45.", "[1.40e-45, 0.0]"),
        ("It is 1.4e−45.", "1.4e-45"),
        ("It is 0.50.", "-.5,"),
        ("It is -0.5.", "0.5"),
        ("It is 49.8 %.", "49.8%"),
        ("It is 4x faster.", "ratio=4.0"),
        ("It is 1e3.", "1000"),
        ("It is 0x7f80.", "0X7F80"),
        ("The bits are 00101.", "0 00101"),
    ],
)
def test_numbers_that_are_found(source: str, output: str) -> None:
    assert not prose.unprinted(notebook(source, output))


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("It is 65504.", "165504 655040 6550.4 65504.5 FP65504 x65504 1,655,04"),
        ("It is 3.4.", "3.40282"),
        ("It is 278.", "4,278,190"),
        ("It is 4x faster.", "INT4 0.4 44"),
        ("It is 49.8 %.", "0.498"),
        ("It is 1.4e-45.", "1.4e45 1.4"),
        ("It is 1.4e−45.", "1.4e45 1.4"),
        ("The bits are 00101.", "101"),
        ("It is 300.", ""),
    ],
)
def test_numbers_that_are_not_found(source: str, output: str) -> None:
    assert prose.unprinted(notebook(source, output))


def test_outputs_that_count() -> None:
    assert not prose.unprinted(notebook("It is 300.", html="<td style='width:1'>300</td>"))
    assert prose.unprinted(notebook("It is 300.", html="<td style='width:300'></td>"))
    assert prose.unprinted(notebook("It is 300.", "300", tag="nbval-ignore-output"))
    cells = notebook("It is 300.")
    cells[1]["outputs"] = [{"output_type": "stream", "name": "stderr", "text": "300"}]
    assert prose.unprinted(cells)


# Claims of the source notes

CITED = re.compile(r"\((claims?)\s([^()]*)\)")


def cited(sources: list[str]) -> tuple[set[str], list[str]]:
    """The ids that a text cites, and the citations that are not written as they should be."""
    ids: set[str] = set()
    wrong = []
    for source in sources:
        for word, listed in CITED.findall(re.sub(r"(`+)[^`]+\1", "", prose.unfenced(source))):
            several = listed.split(", ")
            ids.update(several)
            if (word == "claims") != (len(several) > 1) or not set(several) <= claims.ALL:
                wrong.append(f"({word} {listed})")
    return ids, wrong


@each_page
def test_claims_are_cited_by_ids_that_exist(path: Path) -> None:
    assert cited(markdown(path))[1] == []


@each_chapter
def test_chapter_cites_its_claims(path: Path) -> None:
    assert path.stem in claims.BY_CHAPTER, "say in tests/claims.py which claims belong to the chapter"
    assert set(claims.BY_CHAPTER[path.stem]) - cited(markdown(path))[0] == set()


def test_cited_claims_are_judged_in_critical_reading() -> None:
    ids = set().union(*(cited(markdown(path))[0] for path in PAGES))
    judged = re.findall(r"^\(claim-([a-z0-9]+)\)=$", "\n".join(markdown(BOOK / "critical_reading.ipynb")), re.MULTILINE)
    assert sorted(judged) == sorted(set(judged)), "an id judged twice"
    assert {claim.lower() for claim in ids} - set(judged) == set()
    assert set(judged) <= {claim.lower() for claim in claims.ALL}


@pytest.mark.parametrize("wrong", ["(claim A2, A3)", "(claims A2)", "(claim A99)", "(claims A2,A3)", "(claim a2)"])
def test_claims_written_wrongly_are_seen(wrong: str) -> None:
    assert cited([f"So it is {wrong}."])[1] == [wrong]


def test_claims_written_rightly_are_read() -> None:
    assert cited(["It is (claim A18b). And (claims A8,\nA9)."]) == ({"A18b", "A8,\nA9"}, ["(claims A8,\nA9)"])
    assert cited(["It is (claims A8, A9), not `(claim A3)`."]) == ({"A8", "A9"}, [])


# Symbols, words, citations


@each_chapter
def test_symbols_are_in_the_notation(path: Path) -> None:
    known = set().union(*map(prose.symbols, prose.formulas((BOOK / "notation.md").read_text("utf8"))))
    used = {s: f for source in markdown(path) for f in prose.formulas(source) for s in prose.symbols(f)}
    assert {s: f for s, f in used.items() if s not in known} == {}


def test_symbols_are_read() -> None:
    source = "So $x_{\\mathrm{max}} = \\hat{s}$, `$y$`, and\n\n$$ \\sum_k \\alpha \\text{ if } k $$\n\n```{math}\nE\n```\n\n```\n$q$\n```\n"
    assert set().union(*map(prose.symbols, prose.formulas(source))) == {"x", "s", "k", "alpha", "E"}


FILLER = re.compile(
    r"\b(simply|obviously|clearly|trivially|of course|needless to say|it is easy to see|as everyone knows"
    r"|just(?!\s+(?:above|below|under|over|past|before|after|as|like|enough|outside|inside|beyond)\b))\b|—",
    re.IGNORECASE,
)
WRITTEN = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: p.stem)
def test_no_filler(path: Path) -> None:
    found = [
        f"{match[0]}: in {sentence!r}"
        for source in markdown(path)
        for sentence in prose.sentences(source)
        for match in FILLER.finditer(sentence)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("bad", ["It is simply so.", "Obviously, yes.", "We just add.", "It\u2014is."])
def test_filler_is_seen(bad: str) -> None:
    assert FILLER.search(bad)


def test_just_has_other_uses() -> None:
    assert not FILLER.search("The value just below 2, just as adjustable.")


def test_citations_and_bibliography_agree() -> None:
    entries = parse_file(BOOK / "references.bib").entries
    cited_keys = {
        key.strip(): path.stem
        for path in PAGES
        for source in markdown(path)
        for _, keys in re.findall(r"\{cite[\w:]*\}(`+)([^`]+)\1", prose.unfenced(source))
        for key in keys.split(",")
    }
    assert set(cited_keys) - set(entries) == set(), "cited, but not in references.bib"
    assert set(entries) - set(cited_keys) == set(), "in references.bib, but cited nowhere"
    for key, entry in entries.items():
        absent = {"title", "year"} - set(entry.fields)
        assert not absent, f"{key} has no {absent}"


# What no file may hold

SKIPPED = {"_build", "dist", "vendor", "node_modules", "jupyter_execute", "shared", "__pycache__"}
TEXT = {
    "", ".bib", ".cff", ".cfg", ".css", ".html", ".ipynb", ".js", ".json", ".md", ".py", ".svg", ".toml", ".txt", ".yaml",
    ".yml",
}  # fmt: skip
# Written in pieces, or this file would find itself.
HOSTS = "|".join(re.escape(".".join(h)) for h in (
    ("pypi", "org"), ("files", "pythonhosted", "org"), ("registry", "npmjs", "org"), ("deb", "debian", "org"),
    ("pypi", "python", "org"), ("security", "debian", "org"), ("conda", "anaconda", "org"),
))  # fmt: skip
BANNED = re.compile(
    rf"{HOSTS}|(?<![\w.~-])/(?:root|home|Users|tmp|work)/(?=\w)|\b(?:{'|'.join(('TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X'))})\b"
)


def own_files() -> list[Path]:
    """The project's own text files, found without git: no caches and builds, and hidden folders only if they are ours."""
    found: list[Path] = []
    for folder, below, names in os.walk(ROOT):
        below[:] = [
            b for b in below if b not in SKIPPED and (b == ".ci" or b[0] != ".") and not b.endswith(".egg-info")
        ]
        found += [Path(folder) / name for name in names if Path(name).suffix in TEXT]
    return found


def banned(path: Path) -> list[str]:
    stored = path.read_text("utf8")
    if path.suffix == ".ipynb":
        stored = re.sub(r'"image/png": "[^"]*"', "", stored)  # any letters may stand in a picture
    return BANNED.findall(stored)


def test_files_hold_no_machine_paths_registries_or_unfinished_work() -> None:
    files = own_files()
    assert ROOT / "README.md" in files
    assert ROOT / "tests" / "test_book.py" in files
    assert {str(p.relative_to(ROOT)): found for p in files if (found := banned(p))} == {}


@pytest.mark.parametrize(
    "bad",
    ["see https://pypi." + "org/p", "/" + "root/x", "'/" + "home/me'", "# TO" + "DO: x", "XX" + "X", "(/" + "tmp/a)"],
)
def test_banned_words_are_seen(bad: str) -> None:
    assert BANNED.search(bad)


@pytest.mark.parametrize("good", ["and/or", "framework/x", "https://a.example/home/x", "TO DO"])
def test_other_words_are_not_banned(good: str) -> None:
    assert not BANNED.search(good)


# The chapters among each other

ORDER = [path.stem for path in CHAPTERS]
PARTS = {p["caption"]: [Path(c["file"]).stem for c in p["chapters"]] for p in TOC["parts"] if p.get("numbered")}


def test_map_and_list_name_the_chapters_of_each_part_in_order():
    stored = (BOOK / "index.md").read_text("utf8")
    listed = {m[1]: re.findall(r"\{doc\}`(\w+)`", m[2]) for m in re.finditer(r"(?m)^\d+\. \*\*(.+?)[.*](.*)$", stored)}
    assert {part: chapters for part, chapters in listed.items() if chapters} == PARTS
    boxes = re.findall(r'(?s)<g class="qc-ready">(.*?)</g>', stored)
    drawn = {re.search(r"<text[^>]*>(.*?)</text>", b)[1]: re.findall(r'href="(\w+)\.html"', b) for b in boxes}
    assert drawn == PARTS
    for link, label in re.findall(r'<a href="(\w+)\.html"><text[^>]*>(.*?)</text></a>', stored):
        assert label.lower().replace(" ", "_")[:5] == link[:5], (link, label)


@each_chapter
def test_what_a_chapter_needs_comes_before_it_and_next_after(path):
    cells = prose.markdown(prose.load(path))
    need = re.search(r"(?s)\*\*You need\*\*(.*?)\*\*Time\*\*", cells[0])[1]
    assert {d for d in re.findall(r"\{doc\}`(\w+)`", need) if d in ORDER} <= set(ORDER[: ORDER.index(path.stem)])
    following = ORDER[ORDER.index(path.stem) + 1 :]
    for nxt in re.findall(r"(?m)^(?:- )?Next: \{doc\}`(\w+)`", "\n".join(cells)):
        assert nxt in following[:1]


def test_api_page_lists_every_module():
    modules = {p.stem for p in (ROOT / "quantcourse").glob("*.py") if p.stem[0] != "_"}
    assert set(re.findall(r"automodule:: quantcourse\.(\w+)", (BOOK / "api.md").read_text("utf8"))) == modules


@each_notebook
def test_tags_are_known(path):
    assert {t for c in prose.load(path) for t in prose.tags(c)} <= {"source", "nbval-ignore-output"}


@each_chapter
def test_solutions_print_something_that_is_compared(path):
    (content,) = [c for title, c in sections(prose.load(path)) if title == "Exercises"]
    for cell in content:
        if cell["cell_type"] == "code":
            assert prose.output_text([cell]).strip(), cell["source"].splitlines()[0]
