"""What students handed in: one notebook each, found in a folder and read as text."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

MOST_BYTES = 10 << 20
"""Of a submission."""


@dataclass(frozen=True)
class Submission:
    """A student's file, as it was found."""

    student: str
    path: Path
    problem: str = ""
    """Why it is not to be read."""

    def content(self) -> bytes:
        """What it holds; nothing if it is not to be read."""
        return b"" if self.problem else self.path.read_bytes()

    def key(self, content: bytes) -> str:
        """What is graded once: this content of this student."""
        return f"{self.student} {sha256(content).hexdigest()} {self.problem}"


def find(folder: Path) -> list[Submission]:
    """All submissions, by name; also those that can't be read, with the reason.

    What begins with a dot, and ``__MACOSX``, comes from programs, not from students.
    """
    found = [_found(path) for path in sorted(folder.iterdir()) if _is_a_students(path)]
    times = Counter(submission.student for submission in found)
    return [replace(s, problem="is one of several of this name") if times[s.student] > 1 else s for s in found]


def _is_a_students(path: Path) -> bool:
    return not path.name.startswith(".") and path.name != "__MACOSX"


def _found(path: Path) -> Submission:
    name = path.name if path.is_dir() else path.stem
    # A name may be any bytes; what can't be written down as text is spelled out.
    student = os.fsencode(name).decode(errors="backslashreplace")
    if path.is_symlink():
        return Submission(student, path, "is a link")
    if path.is_dir():
        inside = list(_notebooks(path))
        if len(inside) != 1:
            return Submission(student, path, f"has {len(inside)} notebooks, need one")
        (path,) = inside
    if path.suffix != ".ipynb":
        return Submission(student, path, f"is no notebook but {path.suffix or 'a file without an ending'}")
    if path.is_symlink() or not path.is_file():
        return Submission(student, path, "is no file")
    if (size := path.stat().st_size) > MOST_BYTES:
        return Submission(student, path, f"has {size >> 20} MB, need at most {MOST_BYTES >> 20}")
    return Submission(student, path)


def _notebooks(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if _is_a_students(path) and path.is_dir() and not path.is_symlink():
            yield from _notebooks(path)
        elif _is_a_students(path) and path.suffix == ".ipynb":
            yield path


def cells_of(content: bytes, assignment: str) -> list[str]:
    """The code of a notebook.

    Raises:
        ValueError: for what is no notebook of this assignment.
    """
    import nbformat
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        notebook = nbformat.reads(content.decode(), as_version=4)
        metadata = notebook.metadata
        info = metadata.get("language_info", {})
        language = metadata.get("kernelspec", {}).get("language") or info.get("name", "python")
        name = metadata.get("otter", {}).get("assignment_name", assignment)
        sources = [str(cell.source) for cell in notebook.cells if cell.cell_type == "code"]
    except Exception as error:  # whatever a file holds, it is a row
        raise ValueError(f"can't be read as a notebook ({type(error).__name__})") from error
    if str(language).lower() != "python":
        raise ValueError(f"is in {language!a:.40}, need Python")
    if name != assignment:
        raise ValueError(f"is of {name!a:.40}, need {assignment}")
    # Magics and commands, which Jupyter alone understands, become calls of its shell.
    return [TransformerManager().transform_cell(source) for source in sources]
