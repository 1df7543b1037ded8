"""What a grading run leaves: the table, a file for each student, and a summary for the instructor."""

import csv
import os
import re
import statistics
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

NOTES = 3
MOST_TEXT = 700
"""Letters of what is told at once: a test's message with what an error says fits in."""


def total(row: dict[str, Any]) -> tuple[float, float]:
    """Points, of so many."""
    return sum(q["score"] for q in row["questions"]), sum(q["possible"] for q in row["questions"])


def write(rows: list[dict[str, Any]], assignment: dict[str, Any], out: Path) -> None:
    """All files of a run beside ``out``; feedback of earlier runs goes."""
    table(rows, assignment, out)
    folder = out.with_name(f"{out.stem}_feedback")
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.md"):
        path.unlink()
    for row in rows:
        text = feedback(row, assignment["name"])
        (folder / feedback_name(row)).write_text(text, encoding="utf-8", errors="backslashreplace")
    summary(rows, assignment, out)


def table(rows: list[dict[str, Any]], assignment: dict[str, Any], out: Path) -> None:
    """One line a submission."""
    names = list(assignment["tests"])
    unfinished = out.with_name(out.name + ".part")
    with open(unfinished, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["student", "file", "feedback", "score", "possible", *names, "status", "notes", "seconds"])
        for row in rows:
            score, possible = total(row)
            points = [f"{q['score']:g}" for q in row["questions"]]
            notes = " | ".join(row["notes"])
            texts = [_harmless(text) for text in (row["student"], row["file"], row["status"], notes)]
            writer.writerow(
                [*texts[:2], feedback_name(row), f"{score:g}", f"{possible:g}", *points, *texts[2:], row["seconds"]]
            )
    os.replace(unfinished, out)


def feedback(row: dict[str, Any], assignment: str) -> str:
    """What a student is told: all of the tests that they have, and how many of the others passed."""
    score, possible = total(row)
    lines = [f"# {assignment}: {_quoted(row['student'])}", ""]
    if not any(question["public"] for question in row["questions"]):
        lines += [f"Nothing was graded: the notebook {_quoted(row['status'])}.", ""]
        lines += [f"Hand in one notebook, `{assignment}.ipynb`, as you were given it, with your answers.", ""]
        return "\n".join(lines + _notes(row))
    lines += [f"{score:g} of {possible:g} points.", ""]
    if row["status"] != "graded":
        lines += [f"The notebook {_quoted(row['status'])}. What was not reached by then has no points.", ""]
    for question in row["questions"]:
        lines += [f"## {question['name']}: {question['score']:g} of {question['possible']:g}", ""]
        for name, passed, told in question["public"]:
            lines.append(f"- {name}: {'passed' if passed else 'failed'}{': ' + _quoted(told) if told else ''}")
        passed, count = question["hidden"]
        if count:
            found = f"{passed} passed" if question["asked"] else "none was reached"
            lines.append(f"- of {count} further tests {found}")
        lines.append("")
    return "\n".join(lines + _notes(row))


def _notes(row: dict[str, Any]) -> list[str]:
    if not row["notes"]:
        return []
    more = len(row["notes"]) - NOTES
    return [
        "## What else was found",
        "",
        *(f"- {_quoted(note)}" for note in row["notes"][:NOTES]),
        *([f"- and {more} more"] if more > 0 else []),
        "",
        "Cells are counted without those of text, as Jupyter numbers them after *Run All Cells*.",
        "",
    ]


def summary(rows: list[dict[str, Any]], assignment: dict[str, Any], out: Path) -> None:
    """Counts, and of what was graded to its end the means and a picture of the scores."""
    whole = [row for row in rows if row["status"] == "graded"]
    totals = [total(row)[0] for row in whole]
    possible = max((total(row)[1] for row in rows), default=0.0)
    picture = out.with_name(f"{out.stem}_histogram.png")
    picture.unlink(missing_ok=True)
    lines = [f"# {assignment['name']}", "", f"{len(rows)} submissions, {len(whole)} of them graded to their end."]
    if totals:
        middle = f"{statistics.fmean(totals):.1f}, median {statistics.median(totals):g}, from {min(totals):g} to {max(totals):g}"
        lines += [
            f"Points: mean {middle}, of {possible:g}.",
            "",
            f"![How many have how many points]({picture.name})",
            "",
        ]
        lines += ["| question | mean | of | full | none |", "|---|---|---|---|---|"]
        for i, name in enumerate(assignment["tests"]):
            scores, most = [row["questions"][i]["score"] for row in whole], whole[0]["questions"][i]["possible"]
            full, none = (sum(abs(s - end) < 1e-9 for s in scores) for end in (most, 0.0))
            lines.append(f"| {name} | {statistics.fmean(scores):.2f} | {most:g} | {full} | {none} |")
        _histogram(totals, possible, picture)
    lines += ["", "| what became of it | submissions |", "|---|---|"]
    lines += [
        f"| {_quoted(why).replace('|', ' ')} | {n} |" for why, n in Counter(r["status"] for r in rows).most_common()
    ]
    out.with_name(f"{out.stem}_summary.md").write_text(
        "\n".join([*lines, ""]), encoding="utf-8", errors="backslashreplace"
    )


def _histogram(totals: list[float], possible: float, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(totals, bins=20, range=(0, max(possible, 1)), color="#3b6ea5", edgecolor="white")
    axes.set(xlabel=f"points of {possible:g}", ylabel="submissions")
    figure.savefig(path, dpi=150)


def _harmless(text: str) -> str:
    """One line that a spreadsheet takes for text."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "'" + flat if flat[:1] in ("=", "+", "-", "@") else flat


def _quoted(text: str) -> str:
    """As code, so that no markup in it acts."""
    return "`" + _harmless(text).replace("`", "'")[:MOST_TEXT] + "`"


def feedback_name(row: dict[str, Any]) -> str:
    """A name of its own for each student, on any file system."""
    student = row["student"]
    plain = re.sub(r"[^\w .-]", "_", student)[:60]
    # No name that is left as it is has this mark.
    return f"{plain}.md" if plain == student else f"{plain}~{sha256(student.encode()).hexdigest()[:8]}.md"
