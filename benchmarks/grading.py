"""How long does it take to grade a submission, beside Otter's own grader?

    python benchmarks/grading.py --submissions 20

Both grade the same notebooks with the same tests: copies of the instructor's solution, which runs everything that there is
to run.  All of it on one core, starting of programs included.

- *coursework.grade*: a folder of them in one run, each in a jail of its own.
- *otter run*: one after the other, which is how it takes them.  It runs them unprotected, beside the hidden tests.

The course requires: at most 3.5 s a submission for a homework without torch, and less than Otter's.  The exit status is 1
if not.  It needs bubblewrap.
"""

import argparse
import contextlib
import csv
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from coursework import assign  # noqa: E402

MOST = 3.5


def main() -> int:
    names = sorted(path.stem for path in (assign.FOLDER / "masters").glob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=20, help="for coursework.grade")
    parser.add_argument("--runs", type=int, default=3, help="of otter run")
    parser.add_argument("--names", nargs="*", default=names, choices=names)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    failed = []
    print(f"{'seconds a submission':18}{'coursework.grade':>18}{'otter run':>12}{'ratio':>8}")
    print("-" * 58)
    for name in options.names:
        ours, theirs = times(name, options.submissions, options.runs)
        print(f"{name:20}{ours:>18.2f}{theirs:>12.2f}{ours / theirs:>8.2f}", flush=True)
        needs = (assign.FOLDER / "dist" / name / "student" / "requirements.txt").read_text(encoding="utf-8")
        if ours > theirs or (ours > MOST and "torch" not in needs):
            failed.append(name)
    print(f"\nNot as required: {', '.join(failed) or 'nothing'}.")
    return 1 if failed else 0


def times(name: str, submissions: int, runs: int) -> tuple[float, float]:
    """Seconds a submission, ours and Otter's."""
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        with contextlib.redirect_stdout(io.StringIO()):
            assign.by_otter(assign.FOLDER / "masters" / f"{name}.py", here)
        (archive,) = (here / "dist" / "autograder").glob("*.zip")
        solution = here / "dist" / "autograder" / f"{name}.ipynb"
        (here / "class").mkdir()
        for i in range(submissions):
            shutil.copy(solution, here / "class" / f"{i}.ipynb")
        table = here / "grades.csv"
        ours = timed(
            "-m", "coursework.grade", str(here / "class"), "--assignment", name, "--out", str(table), "--jobs", "1"
        )
        with open(table, newline="") as file:
            if any(row["score"] != row["possible"] for row in csv.DictReader(file)):
                raise SystemExit(f"{name}: coursework.grade gives the solution less than all points")
        theirs = [
            timed("-m", "otter", "run", str(solution), "-a", str(archive), "-o", str(here), "--no-logo")
            for _ in tqdm(range(runs), desc=name, leave=False)
        ]
    return ours / submissions, sum(theirs) / runs


def timed(*command: str) -> float:
    """Seconds of a Python program."""
    start = time.perf_counter()
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
