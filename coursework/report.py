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


def total(row: dict[str, Any]) -> tuple[float, float]:
    """Points, of so many."""
    return sum(q["score"] for q in row["questions"]), sum(q["possible"] for q in row["questions"])


def write(rows: list[dict[str, Any]], assignment: dict[str, Any], out: Path) -> None:
    """All files of a run beside ``out``."""
    table(rows, assignment, out)
    folder = out.with_name(f"{out.stem}_feedback")
    folder.mkdir(exist_ok=True)
    for row in rows:
        (folder / f"{_file_name(row['student'])}.md").write_text(
            feedback(row, assignment["name"]), encoding="utf-8", errors="backslashreplace"
        )
    summary(rows, assignment, out)


def table(rows: list[dict[str, Any]], assignment: dict[str, Any], out: Path) -> None:
    """One line a submission."""
    names = list(assignment["tests"])
    unfinished = out.with_name(out.name + ".part")
    with open(unfinished, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["student", "file", "score", "possible", *names, "status", "notes", "seconds"])
        for row in rows:
            score, possible = total(row)
            points = [f"{q['score']:g}" for q in row["questions"]]
            notes = " | ".join(row["notes"])
            texts = [_harmless(text) for text in (row["student"], row["file"], row["status"], notes)]
            writer.writerow([*texts[:2], f"{score:g}", f"{possible:g}", *points, *texts[2:], row["seconds"]])
    os.replace(unfinished, out)


def feedback(row: dict[str, Any], assignment: str) -> str:
    """What a student is told: all of the tests that they have, and how many of the others passed."""
    score, possible = total(row)
    lines = [f"# {assignment}: {row['student']}", "", f"{score:g} of {possible:g} points.", ""]
    if row["status"] != "graded":
        lines += [f"The notebook {row['status']}.", ""]
    for question in row["questions"]:
        lines += [f"## {question['name']}: {question['score']:g} of {question['possible']:g}", ""]
        for name, passed, told in question["public"]:
            lines.append(f"- {name}: {'passed' if passed else 'failed'}{': ' + _quoted(told) if told else ''}")
        passed, count = question["hidden"]
        if count:
            lines.append(f"- of {count} further tests {passed} passed")
        lines.append("")
    if row["notes"]:
        lines += ["## Cells that ended with an error", ""]
        lines += [f"- {_quoted(note)}" for note in row["notes"][:NOTES]]
        more = len(row["notes"]) - NOTES
        lines += [f"- and {more} more"] if more > 0 else []
        lines.append("")
    return "\n".join(lines)


def summary(rows: list[dict[str, Any]], assignment: dict[str, Any], out: Path) -> None:
    """Counts, means, and a picture of the scores."""
    totals = [total(row)[0] for row in rows]
    possible = max((total(row)[1] for row in rows), default=0.0)
    picture = out.with_name(f"{out.stem}_histogram.png")
    lines = [f"# {assignment['name']}", "", f"{len(rows)} submissions."]
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
            scores, most = [row["questions"][i]["score"] for row in rows], rows[0]["questions"][i]["possible"]
            full, none = (sum(abs(s - end) < 1e-9 for s in scores) for end in (most, 0.0))
            lines.append(f"| {name} | {statistics.fmean(scores):.2f} | {most:g} | {full} | {none} |")
        lines += ["", "| what became of it | submissions |", "|---|---|"]
        lines += [
            f"| {_harmless(why).replace('|', ' ')} | {n} |"
            for why, n in Counter(r["status"] for r in rows).most_common()
        ]
        _histogram(totals, possible, picture)
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
    flat = re.sub(r"\s+", " ", text)
    return "'" + flat if flat[:1] in ("=", "+", "-", "@") else flat


def _quoted(text: str) -> str:
    """As code, so that no markup in it acts."""
    return "`" + re.sub(r"\s+", " ", text).replace("`", "'")[:300] + "`"


def _file_name(student: str) -> str:
    """A name of its own for each student, on any file system."""
    plain = re.sub(r"[^\w .-]", "_", student)[:60]
    return plain if plain == student else f"{plain}-{sha256(student.encode()).hexdigest()[:8]}"
