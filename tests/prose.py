r"""Read the prose of a notebook: its sentences, the numbers in them, the symbols of its formulas.

The number gate
---------------
A number in prose must be one that a cell of the same notebook printed, so that text and code cannot drift apart.

*Prose* is the text of the markdown cells, without: fenced code (the body of a directive such as ``{admonition}`` or
``{exercise}`` is prose, its first line and its ``:options:`` are not), code spans, math, roles, links and images with
their targets, headings, targets ``(label)=``, comments, claims ``(claim A8)``, HTML tags, and ``<code>``, ``<pre>``, ``<kbd>`` and ``<svg>``. A
sentence with a ``{cite}`` role is left out as a whole: its numbers are the source's. A table is one sentence.

*Numbers* are unsigned and stand by themselves, not in a name (FP16, ResNet-101, Q3.4, IEEE 754, Python 3.11) or a
version (2.13.0). A number is checked if it has

- a decimal point or a power of ten: ``0.5``, ``3.40e38``;
- a percent sign: ``50 %``, ``50%``, ``50 percent``;
- an x: ``4x``, ``4 x``, ``4×``, ``4-fold``, ``4 times as ...`` (but ``3 x 3`` is a size);
- three digits or more: ``127``, ``4,278,190,080``;
- the form ``0x7f`` or ``0b101``.

It is *found* if the notebook's stored outputs (stdout, text/plain, text/html without its tags; opted-out cells do not
count) hold a number of the same value, as a whole number and not as a part of a longer one: ``65504`` is found in
``65504.0`` and ``65,504``, not in ``165504`` or ``FP65504``; ``3.4`` is not found in ``3.40282``.
"""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

CITATION = "\ue000"  # stands where a citation stood,
GONE = "\ue001"  # and this where anything else was taken out

LITERAL = {"math", "code", "code-block", "code-cell", "literalinclude", "raw", "bibliography", "eval-rst", "mermaid"}
FENCE = re.compile(r"^[\s>]*(`{3,}|~{3,}|:{3,})\s*(.*?)\s*$")
OPTION = re.compile(r"^[\s>]*:[\w-]+:")

Json = dict[str, Any]


def unfenced(source: str, literal: set[str] = LITERAL) -> str:
    """The source without code fences and without the lines that open, set and close directives."""
    kept: list[str] = []
    open_fences: list[tuple[str, bool]] = []  # the mark, and whether its body is dropped
    for line in source.splitlines():
        fence = FENCE.match(line)
        mark, drops = open_fences[-1] if open_fences else ("", False)
        closes = fence and mark and not fence[2] and fence[1].startswith(mark)
        if closes:
            open_fences.pop()
        elif fence and not drops:
            directive = re.match(r"\{([\w:-]+)\}", fence[2])
            body_is_prose = directive[1] not in literal if directive else fence[1][0] == ":"
            open_fences.append((fence[1], not body_is_prose))
        if fence or drops or (open_fences and OPTION.match(line)):
            kept.append("")
        else:
            kept.append(line)
    return "\n".join(kept)


def text(source: str) -> str:
    """The prose of one markdown cell, with ``CITATION`` and ``GONE`` in place of what is no prose."""
    prose = unfenced(source)
    for pattern, instead in (
        (r"(?s)<!--.*?-->", ""),
        (r"(?m)^%.*$", ""),
        (r"(?is)<(svg|script|style|code|pre|kbd)\b.*?</\1>", GONE),
        (r"\{cite[\w:]*\}(`+)[^`]+\1", CITATION),
        (r"\{[\w:.-]+\}(`+)[^`]+\1", GONE),
        (r"(?s)(?<!`)(`+)(?!`)(?:(?!\n\n).)+?(?<!`)\1(?!`)", GONE),
        (r"(?s)\$\$.*?\$\$(?:\s*\([\w:-]+\))?", GONE),
        (r"(?s)\\begin\{(\w+\*?)\}.*?\\end\{\1\}", GONE),
        (r"(?<!\\)\$(?!\s)(?:(?!\n\n)[^$])+?(?<![\s\\])\$", GONE),
        (r"(?m)^ {0,3}#{1,6}\s.*$", ""),
        (r"(?m)^\([\w:.-]+\)=\s*$", ""),
        (r"(?m)^\+\+\+.*$|^\{[.#][^}]*\}\s*$", ""),
        (r"(?m)^\[[^\]^]+\]:\s.*$", ""),
        (r"<[a-z]+:[^>\s]*>", GONE),
        (r"</?[A-Za-z][^>]*>", " "),
        (r"!?\[[^\[\]]*\](?:\([^()]*(?:\([^()]*\)[^()]*)*\)|\[[^\]]*\])", GONE),
        (r"\bhttps?://\S+", GONE),
        (r"\(claims? [^()]*\)", GONE),
    ):
        prose = re.sub(pattern, instead, prose)
    return html.unescape(prose)


def blocks(prose: str) -> Iterator[tuple[str, bool]]:
    """Paragraphs, list items and tables; the flag says that it is a table."""
    block: list[str] = []
    table = False
    for line in [*(re.sub(r"^[\s>]+", "", line) for line in prose.splitlines()), ""]:
        item = re.match(r"(?:[-*+]|\d+[.)])\s+", line)
        if not line or item or line.startswith("|") != table:
            if block:
                yield " ".join(block), table
            block, table = [], line.startswith("|")
        if line:
            block.append(line[item.end() :] if item else line)


def sentences(source: str) -> Iterator[str]:
    """Sentences of one markdown cell. A citation after the full stop belongs to the sentence before it."""
    for block, table in blocks(text(source)):
        block = re.sub(rf"([.!?]+)(\s*(?:{CITATION}[.;,\s]*)+)", r"\2\1 ", block)
        yield from [block] if table else re.split(r"(?<=[.!?])[*_\"”)]*\s+(?=[^a-z\s])", block)


NUMBER = re.compile(
    r"""
      (?P<name>IEEE(?:\ Std)?\s754(?:-\d{4})?|\b(?:Python|PyTorch|torch|NumPy|Matplotlib|Jupyter\ Book|CUDA|ONNX)\s\d+(?:\.\d+)*)
    | (?P<version>\d+\.\d+\.\d+[\w.]*)
    | (?P<by>(?<=\d)[x×](?=\d))
    | (?P<word>[^\W\d_]\w*(?:[-.]\d\w*)*)
    | (?P<literal>0[xX][0-9a-fA-F]+|0[bB][01]+)
    | (?P<digits>(?:\d{1,3}(?:[,_\u2009\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\d.])\.\d+)(?P<power>[eE][+\-−]?\d+)?
      (?P<unit>\s?%|\s?per\s?cent\b|\s?[x×](?!\w)(?!\s?\d)|-?fold\b
        |\stimes\s(?:as|the|more|less|fewer|faster|slower|larger|bigger|smaller|wider|narrower|longer|shorter|higher|lower)\b)?
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Number:
    """A number as written and, in ``value``, what is compared."""

    written: str
    value: object
    checked: bool


def numbers(sentence: str) -> Iterator[Number]:
    """The numbers in a text; ``checked`` says which the gate asks for."""
    for token in NUMBER.finditer(sentence):
        written = token[0].strip()
        if token["literal"]:
            yield Number(written, token["literal"].lower(), True)
        elif token["digits"]:
            digits = re.sub(r"[^\d.]", "", token["digits"])
            power = (token["power"] or "").replace("−", "-")
            decimal = "." in digits
            padded = not decimal and not power and digits.startswith("0") and len(digits) > 1  # 00101: a row of bits
            checked = bool(decimal or power or token["unit"] or len(digits) >= 3)
            yield Number(written, digits if padded else plain(digits + power), checked)


def plain(number: str) -> tuple[int, int]:
    """``number`` as integer times a power of ten, without trailing zeros: equal for equal values."""
    _, digits, exponent = Decimal(number).as_tuple()
    mantissa = "".join(map(str, digits)).lstrip("0")
    stripped = mantissa.rstrip("0")
    return (int(stripped), int(exponent) + len(mantissa) - len(stripped)) if stripped else (0, 0)


def load(path: Path) -> list[Json]:
    """The cells of a notebook, each ``source`` as one string."""
    cells: list[Json] = json.loads(path.read_text("utf8"))["cells"]
    return [{**cell, "source": joined(cell["source"])} for cell in cells]


def joined(stored: str | list[str]) -> str:
    return stored if isinstance(stored, str) else "".join(stored)


def markdown(cells: list[Json]) -> list[str]:
    return [cell["source"] for cell in cells if cell["cell_type"] == "markdown"]


def tags(cell: Json) -> list[str]:
    return cell["metadata"].get("tags", [])


def output_text(cells: list[Json]) -> str:
    """What the compared cells of a notebook printed and showed, as text."""
    parts: list[str] = []
    for cell in cells:
        if cell["cell_type"] != "code" or "nbval-ignore-output" in tags(cell):
            continue
        for output in cell["outputs"]:
            if output["output_type"] == "stream" and output["name"] == "stdout":
                parts.append(joined(output["text"]))
            data = output.get("data", {})
            parts.append(joined(data.get("text/plain", "")))
            parts.append(html.unescape(re.sub(r"<[^>]*>", " ", joined(data.get("text/html", "")))))
    return "\n".join(parts)


def unprinted(cells: list[Json]) -> list[tuple[str, str]]:
    """The checked numbers that no output holds, each with its sentence."""
    printed = {number.value for number in numbers(output_text(cells))}
    return [
        (number.written, sentence.replace(GONE, "…"))
        for source in markdown(cells)
        for sentence in sentences(source)
        if CITATION not in sentence
        for number in numbers(sentence)
        if number.checked and number.value not in printed
    ]


GREEK = set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split()
)


def formulas(source: str) -> list[str]:
    """The formulas of one markdown text: dollars, environments, the ``math`` role and directive."""
    prose = unfenced(source, LITERAL - {"math"})
    fenced = re.findall(r"(?ms)^\s*(?:`{3,}|:{3,})\{math\}.*?\n(.*?)^\s*(?:`{3,}|:{3,})\s*$", source)
    roles = re.findall(r"\{math\}`([^`]+)`", prose)
    prose = re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", GONE, prose)
    found = re.findall(r"\$\$.*?\$\$|\\begin\{(?:\w+\*?)\}.*?\\end\{\w+\*?\}", prose, re.DOTALL)
    prose = re.sub(r"\$\$.*?\$\$", GONE, prose, flags=re.DOTALL)
    return fenced + roles + found + re.findall(r"(?<!\\)\$(?!\s)[^$\n]+?(?<![\s\\])\$", prose)


def symbols(formula: str) -> set[str]:
    """The letters of a formula, Latin and Greek, without words set upright and without names of functions."""
    upright = r"\\(?:text\w*|mathrm|mathtt|mathsf|mathbf|operatorname\*?|tag|label|begin|end|color)\s*\{[^{}]*\}"
    bare = re.sub(upright, " ", formula)
    commands = set(re.findall(r"\\([A-Za-z]+)", bare))
    return set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", bare))) | (commands & GREEK)
