"""Grades a folder of submissions.

    python -m coursework.grade SUBMISSIONS --assignment hw3 --out grades.csv

SUBMISSIONS has one notebook a student, as ``NAME.ipynb`` or alone in a folder ``NAME``.  Each runs in a jail of its own; the
tests run outside.  Beside ``grades.csv`` come ``grades_feedback/NAME.md``, ``grades_summary.md`` with ``grades_histogram.png``,
and ``grades.journal``: one line a submission that is graded, so that a run that was killed goes on where it stopped.  A
submission that has changed since is graded again, and so are all if the tests have.

Jobs are spread over processes on this machine, or over a cluster of Dask (``--scheduler``), whose machines need this folder,
the same Python environment and bubblewrap.  Without bubblewrap nothing is graded.  ``--trusted`` grades one notebook in this
process, without a jail: for the instructor's own solution alone.
"""

import argparse
import fcntl
import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from coursework import referee
from coursework.jail import JailError, check

FOLDER = Path(__file__).parent
MOST_BYTES = 10 << 20
"""Of a submission."""
GRACE = 10.0
"""Seconds that a referee has beyond those of the submission."""


@dataclass(frozen=True)
class Submission:
    """A student's file, as it was found."""

    student: str
    path: Path
    problem: str = ""

    def content(self) -> bytes:
        """What it holds; nothing if it is not to be read."""
        return b"" if self.problem else self.path.read_bytes()


def find(folder: Path) -> list[Submission]:
    """All submissions, by name; also those that are none, with the reason."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            found.append(Submission(path.stem, path, "is a link"))
        elif path.is_dir():
            inside = sorted(path.rglob("*.ipynb"))
            if len(inside) == 1:
                found.append(_checked(path.name, inside[0]))
            else:
                found.append(Submission(path.name, path, f"has {len(inside)} notebooks, need one"))
        elif path.suffix == ".ipynb":
            found.append(_checked(path.stem, path))
        else:
            found.append(Submission(path.stem, path, f"is no notebook but {path.suffix or 'a file without an ending'}"))
    names = [s.student for s in found]
    return [
        Submission(s.student, s.path, "is one of several of this name") if names.count(s.student) > 1 else s
        for s in found
    ]


def _checked(student: str, path: Path) -> Submission:
    if path.is_symlink() or not path.is_file():
        return Submission(student, path, "is no file")
    if (size := path.stat().st_size) > MOST_BYTES:
        return Submission(student, path, f"has {size >> 20} MB, need at most {MOST_BYTES >> 20}")
    return Submission(student, path)


def cells_of(content: bytes, assignment: str) -> list[str]:
    """The code of a notebook.

    Raises:
        ValueError: for what is no notebook of this assignment.
    """
    import nbformat

    try:
        notebook = nbformat.reads(content.decode(), as_version=4)
        metadata = notebook.metadata
        language = metadata.get("kernelspec", {}).get("language") or metadata.get("language_info", {}).get(
            "name", "python"
        )
        name = metadata.get("otter", {}).get("assignment_name", assignment)
        sources = [str(cell.source) for cell in notebook.cells if cell.cell_type == "code"]
    except Exception as error:  # whatever a file holds, it is a row
        raise ValueError(f"can't be read as a notebook ({type(error).__name__})") from error
    if language.lower() != "python":
        raise ValueError(f"is in {language}, need Python")
    if name != assignment:
        raise ValueError(f"is of {name}, need {assignment}")
    # What Jupyter alone understands installs packages or sets up pictures.
    return [re.sub(r"^[ \t]*[%!].*$", "", source, flags=re.MULTILINE) for source in sources]


def judge(cells: list[str], assignment: dict[str, Any], limits: referee.Limits) -> dict[str, Any]:
    """The result of a submission, from a process of its own that can be killed."""
    check()  # without a jail this is no grade but an error
    processes = multiprocessing.get_context("forkserver")
    # Otter takes seconds to import, so that is done once for all.
    processes.set_forkserver_preload(["coursework.referee", "otter.test_files", "execnet", "numpy", "psutil"])
    start, (receiver, sender) = time.monotonic(), processes.Pipe(duplex=False)
    process = processes.Process(target=referee.work, args=(sender, cells, assignment, limits))
    process.start()
    sender.close()
    try:
        late = not receiver.poll(limits.seconds + GRACE)
        result: dict[str, Any] | None = None if late else receiver.recv()
    except EOFError:
        late, result = False, None
    finally:
        process.kill()
        process.join()
        receiver.close()
    why = "took too long" if late else "broke its grader"
    return result or asdict(referee.nothing(why, assignment["tests"], time.monotonic() - start))


def load(name: str) -> dict[str, Any]:
    """The tests of an assignment by the beginning of its name."""
    built = sorted((FOLDER / "dist").glob(f"{name}*/autograder.json"))
    if len(built) != 1:
        known = (
            ", ".join(sorted(p.parent.name for p in (FOLDER / "dist").glob("*/autograder.json")))
            or "none: run make assignments"
        )
        raise SystemExit(f"--assignment: need one of those that are built ({known}), got {name}")
    loaded: dict[str, Any] = json.loads(built[0].read_text(encoding="utf-8"))
    return loaded


class Journal:
    """The rows so far, in a file that survives the run."""

    def __init__(self, path: Path, digest: str) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.file = open(path, "a+b")  # noqa: SIM115
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"{path}: another run is writing it") from None
        self.file.seek(0)
        whole = 0
        for line in self.file:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                break  # the run was killed in the middle of this line
            whole += len(line)
            if entry["digest"] == digest:
                self.rows[entry["key"]] = entry["row"]
        self.file.truncate(whole)
        self.digest = digest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def add(self, key: str, row: dict[str, Any]) -> None:
        """For good, even if the machine stops right behind this."""
        self.rows[key] = row
        self.file.write(json.dumps({"digest": self.digest, "key": key, "row": row}).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())


def key_of(submission: Submission, content: bytes) -> str:
    """What is graded once: this content of this student."""
    return f"{submission.student} {sha256(content).hexdigest()} {submission.problem}"


def row_of(submission: Submission, result: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a grade."""
    return {"student": submission.student, "file": submission.path.name, **result}


def refused(submission: Submission, why: str, assignment: dict[str, Any]) -> dict[str, Any]:
    """The row of what can't be graded."""
    return row_of(submission, asdict(referee.nothing(why, assignment["tests"], 0.0)))


def graded(
    jobs: list[tuple[Submission, str, list[str]]],
    assignment: dict[str, Any],
    limits: referee.Limits,
    scheduler: str | None,
    workers: int,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and row of each submission, in the order in which they end."""
    import dask
    from dask.distributed import Client, LocalCluster, as_completed
    from distributed.scheduler import KilledWorker

    # Workers start processes of their own.
    dask.config.set({"distributed.worker.daemon": False})
    cluster = scheduler or LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    with Client(cluster) as client:
        tests = client.scatter(assignment, broadcast=True)
        futures = {
            client.submit(judge, cells, tests, limits, pure=False): (submission, key) for submission, key, cells in jobs
        }
        for future in as_completed(futures):
            submission, key = futures[future]
            error = future.exception()
            if isinstance(error, JailError):
                raise SystemExit(str(error))
            if isinstance(error, KilledWorker):
                yield key, refused(submission, "was lost with its worker again and again", assignment)
            elif error is not None:
                yield key, refused(submission, f"could not be graded: {type(error).__name__}: {error}", assignment)
            else:
                yield key, row_of(submission, future.result())
            future.release()
    if scheduler is None:
        cluster.close()


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    from tqdm import tqdm

    from coursework import report

    parser = argparse.ArgumentParser(prog="python -m coursework.grade", description="Grade a folder of submissions.")
    parser.add_argument("submissions", type=Path, help="a folder; with --trusted, one notebook")
    parser.add_argument("--assignment", required=True, help="such as hw3")
    parser.add_argument("--out", type=Path, help="the table to write, .csv")
    parser.add_argument(
        "--scheduler", help="the address of a running Dask scheduler (default: processes on this machine)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time on this machine")
    parser.add_argument("--seconds", type=float, default=referee.Limits.seconds, help="that a submission may take")
    parser.add_argument(
        "--trusted", action="store_true", help="grade one notebook here, without a jail: your own solution"
    )
    options = parser.parse_args(arguments)
    assignment = load(options.assignment)
    limits = referee.Limits(seconds=options.seconds)
    if options.trusted:
        if not options.submissions.is_file():
            parser.error("submissions: with --trusted, need one notebook")
        cells = cells_of(options.submissions.read_bytes(), assignment["name"])
        result = referee.grade(cells, assignment, limits, trusted=True)
        print(report.feedback(row_of(Submission("solution", options.submissions), asdict(result)), assignment["name"]))
        return 0
    if not options.submissions.is_dir():
        parser.error(f"submissions: need a folder, got {options.submissions}")
    if options.out is None or options.out.suffix != ".csv":
        parser.error(f"--out: need a file .csv, got {options.out}")
    if options.jobs < 1 or not options.seconds > 0:
        parser.error("--jobs and --seconds: need more than 0")
    try:
        check()
    except JailError as error:
        raise SystemExit(str(error)) from None
    digest = sha256(json.dumps([assignment, asdict(limits)], sort_keys=True).encode()).hexdigest()
    with Journal(options.out.with_suffix(".journal"), digest) as journal:
        keys, jobs = [], []
        for submission in find(options.submissions):
            content = submission.content()
            keys.append(key := key_of(submission, content))
            if key in journal.rows:
                continue
            try:
                if submission.problem:
                    raise ValueError(submission.problem)
                jobs.append((submission, key, cells_of(content, assignment["name"])))
            except ValueError as error:
                journal.add(key, refused(submission, str(error), assignment))
        if jobs:
            done = graded(jobs, assignment, limits, options.scheduler, min(options.jobs, len(jobs)))
            for key, row in tqdm(done, total=len(jobs), desc="submissions", unit=""):
                journal.add(key, row)
    rows = [journal.rows[key] for key in keys]
    report.write(rows, assignment, options.out)
    print(f"{len(rows)} submissions, {len(jobs)} of them graded now: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
