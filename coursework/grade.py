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
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from coursework import referee, report
from coursework.jail import JailError, check
from coursework.journal import BusyError, Journal
from coursework.submissions import Submission, cells_of, find

FOLDER = Path(__file__).parent
GRACE = 10.0
"""Seconds that a referee has beyond those of the submission."""
Row = dict[str, Any]
Job = tuple[Submission, str, list[str]]
"""A submission, its key, and its cells."""


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
    """The tests of an assignment by the beginning of its name.

    Raises:
        ValueError: if there is none, or more than one.
    """
    built = sorted((FOLDER / "dist").glob(f"{name}*/autograder.json"))
    if len(built) != 1:
        known = ", ".join(sorted(path.parent.name for path in (FOLDER / "dist").glob("*/autograder.json")))
        raise ValueError(f"need one of those that are built ({known or 'none: run make assignments'}), got {name}")
    loaded: dict[str, Any] = json.loads(built[0].read_text(encoding="utf-8"))
    return loaded


def row_of(submission: Submission, result: dict[str, Any]) -> Row:
    """What is kept of a grade."""
    return {"student": submission.student, "file": submission.path.name, **result}


def refused(submission: Submission, why: str, assignment: dict[str, Any], final: bool = True) -> Row:
    """The row of what can't be graded."""
    return row_of(submission, asdict(referee.nothing(why, assignment["tests"], 0.0, final)))


def graded(
    jobs: Sequence[Job], assignment: dict[str, Any], limits: referee.Limits, scheduler: str | None, workers: int
) -> Iterator[tuple[str, Row]]:
    """Key and row of each submission, in the order in which they end.

    Raises:
        JailError: where a machine that was to grade can't build a jail.
    """
    import dask
    from dask.distributed import Client, LocalCluster, as_completed
    from distributed.scheduler import KilledWorker

    # Workers start processes of their own.
    dask.config.set({"distributed.worker.daemon": False})
    here = partial(LocalCluster, n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    with nullcontext(scheduler) if scheduler else here() as cluster, Client(cluster) as client:
        tests = client.scatter(assignment, broadcast=True)
        futures = {
            client.submit(judge, cells, tests, limits, pure=False): (submission, key) for submission, key, cells in jobs
        }
        for future in as_completed(futures):
            submission, key = futures[future]
            error = future.exception()
            if isinstance(error, JailError):
                raise error
            if error is None:
                yield key, row_of(submission, future.result())
            else:
                lost = isinstance(error, KilledWorker)
                why = "was lost with its worker again and again" if lost else f"could not be graded: {error!r}"
                yield key, refused(submission, why, assignment, final=False)
            future.release()


@dataclass(frozen=True)
class Count:
    """How many submissions."""

    all: int
    now: int
    """Graded by this run."""
    failed: int
    """Of these, not for their own fault; they are not in the journal."""


def grade_folder(
    folder: Path, assignment: dict[str, Any], limits: referee.Limits, out: Path, scheduler: str | None, workers: int
) -> Count:
    """Grade what is not in the journal yet, and write all that a run leaves.

    Raises:
        BusyError: if another run is writing the same files.
        JailError: without jails.
    """
    from tqdm import tqdm

    digest = sha256(json.dumps([assignment, asdict(limits)], sort_keys=True).encode()).hexdigest()
    keys: list[str] = []
    jobs: list[Job] = []
    with Journal(out.with_suffix(".journal"), digest) as journal:
        for submission in find(folder):
            content = submission.content()
            keys.append(key := submission.key(content))
            if key in journal.rows:
                continue
            try:
                if submission.problem:
                    raise ValueError(submission.problem)
                jobs.append((submission, key, cells_of(content, assignment["name"])))
            except ValueError as error:
                journal.add(key, refused(submission, str(error), assignment))
        failed: dict[str, Row] = {}
        if jobs:
            done = graded(jobs, assignment, limits, scheduler, min(workers, len(jobs)))
            for key, row in tqdm(done, total=len(jobs), desc="submissions", unit=""):
                if row["final"]:
                    journal.add(key, row)
                else:
                    failed[key] = row
        rows = journal.rows | failed
        # With the lock still held, since these are one run's files, too.
        report.write([rows[key] for key in keys], assignment, out)
    return Count(len(keys), len(jobs), len(failed))


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
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
    try:
        assignment = load(options.assignment)
    except ValueError as error:
        parser.error(f"--assignment: {error}")
    if options.jobs < 1 or not 0 < options.seconds < math.inf:
        parser.error(f"--jobs and --seconds: need more than 0, got {options.jobs} and {options.seconds:g}")
    limits = referee.Limits(seconds=options.seconds)
    if options.trusted:
        if not options.submissions.is_file():
            parser.error("submissions: with --trusted, need one notebook")
        try:
            cells = cells_of(options.submissions.read_bytes(), assignment["name"])
        except ValueError as error:
            parser.error(f"submissions: {options.submissions} {error}")
        result = referee.grade(cells, assignment, limits, trusted=True)
        print(report.feedback(row_of(Submission("solution", options.submissions), asdict(result)), assignment["name"]))
        return 0
    if not options.submissions.is_dir():
        parser.error(f"submissions: need a folder, got {options.submissions}")
    if options.out is None or options.out.suffix != ".csv" or not options.out.parent.is_dir():
        parser.error(f"--out: need a file .csv in a folder that is there, got {options.out}")
    if options.out.resolve().is_relative_to(options.submissions.resolve()):
        parser.error(f"--out: need a file outside of the submissions, got {options.out}")
    try:
        check()
        count = grade_folder(options.submissions, assignment, limits, options.out, options.scheduler, options.jobs)
    except (JailError, BusyError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit("stopped: the same command goes on from here") from None
    print(f"{count.all} submissions, {count.now} of them graded now: {options.out}")
    if count.failed:
        print(f"{count.failed} failed for no fault of theirs (see their status): run the same command again")
    return 1 if count.failed else 0


if __name__ == "__main__":
    sys.exit(main())
