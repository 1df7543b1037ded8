"""Grades one submission: its cells run in a jail, the tests run out here, against what the jail answers.

In a process of its own, so that whatever comes out of a jail can break no more than this one grade.
"""

import builtins
import contextlib
import inspect
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from otter.test_files import OKTestFile

from coursework import inmate, kernel, values
from coursework.jail import specification
from coursework.values import CrossingError, pack, unpack

GIGABYTE = 1 << 30
SLACK = 5.0
"""Seconds for which a submission may take the time of more processors than its own."""
MOST_NOTES, MOST_TEXT = 20, 300
"""Notes of a submission, and letters of each."""


@dataclass(frozen=True)
class Limits:
    """What a submission may take."""

    seconds: float = 60.0
    """In all, starting Python included; one cell may take half of it, one call of a function a quarter."""
    memory: int = 6 * GIGABYTE
    """Of one process; all together may use as much, too."""
    processes: int = 64
    processors: float = 2.0
    """Of whose time it may take all, on average."""
    file_size: int = 256 << 20
    jails: int = 4
    """New ones, after cells and calls that broke one."""
    referee: int = 4 * GIGABYTE
    """Memory of the process out here."""


@dataclass
class Question:
    """One question: points and what was found."""

    name: str
    score: float
    possible: float
    public: list[tuple[str, bool, str]] = field(default_factory=list)
    """Name, whether passed, and what to tell, of each test that students know."""
    hidden: tuple[int, int] = (0, 0)
    """Passed, of so many tests that students don't know."""
    asked: bool = False
    """Whether all of its tests were run."""


@dataclass
class Result:
    """What became of a submission."""

    status: str
    questions: list[Question]
    notes: list[str]
    seconds: float
    final: bool = True
    """Whether another try would end alike; not so if the machine was at fault."""


class LostJail(BaseException):
    """The jail gives no answer any more.  Not an ``Exception``: no test may take it for one of a student's."""


class OutOfTime(LostJail):
    """The time of the submission is over."""


class NoJail(OutOfTime):
    """There was none from the beginning, which is no fault of the submission."""


class Jail:
    """A running jail with the names of one notebook.

    A cell or a function that breaks it, or takes too long, is left out from then on: a new jail runs the other cells again.
    """

    def __init__(self, cells: list[str], limits: Limits, without: list[str]) -> None:
        self.cells, self.limits, self.without = cells, limits, without
        self.end = time.monotonic() + limits.seconds
        self.left_out: dict[int | str, str] = {}
        self.notes: list[str] = []

    def open(self) -> list[str]:
        """Run all cells in a new jail, those that break it one by one less; what to tell of them."""
        while True:
            self.start()
            notes = self.broken_cells()
            for i, cell in enumerate(self.cells):
                if i in self.left_out:
                    continue
                try:
                    notes += _texts(self.ask("run", i, cell, seconds=self.limits.seconds / 2))
                except OutOfTime:
                    raise
                except LostJail as error:
                    self.left_out[i] = str(error)
                    break
            else:
                return notes[:MOST_NOTES]

    def broken_cells(self) -> list[str]:
        """What to tell of the cells that are left out."""
        return [f"cell {i + 1}: {why}" for i, why in self.left_out.items() if isinstance(i, int)]

    def start(self) -> None:
        """A new jail in place of the old one."""
        import execnet

        self.close()
        if len(self.left_out) > self.limits.jails:
            raise OutOfTime(f"needs more than {self.limits.jails} jails")
        self.group = execnet.Group()
        try:
            self.gateway = self.group.makegateway(specification(self.without))
            self.channel = self.gateway.remote_exec("".join(map(inspect.getsource, (values, kernel, inmate))))
            limits = self.limits
            order = limits.memory, int(limits.seconds) + 1, limits.processes, limits.file_size, self.without
            self.channel.send(("limit", *order))
            self.channel.receive(limits.seconds)
        except (OSError, EOFError, execnet.HostNotFound, execnet.RemoteError, execnet.TimeoutError) as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise (OutOfTime if self.left_out else NoJail)(f"the jail did not start: {why}") from None

    def close(self) -> None:
        """End the jail with all that runs in it."""
        if group := getattr(self, "group", None):
            for gateway in group:
                gateway._io.kill()
            group.terminate(timeout=0.1)

    def ask(self, *order: Any, seconds: float | None = None) -> Any:
        """The answer to an order, in time."""
        left = self.end - time.monotonic()
        most = left if seconds is None else min(left, seconds)
        try:
            if left <= 0:
                raise TimeoutError
            self.channel.send(order)
            return self.channel.receive(most)
        except (TimeoutError, self.channel.TimeoutError):
            if most == left:
                raise OutOfTime(f"took more than {self.limits.seconds:g} s") from None
            raise LostJail(f"took more than {seconds:g} s") from None
        except (EOFError, OSError, self.channel.RemoteError):
            raise LostJail("ended its own process, or wanted more memory than there is") from None
        except Exception as error:
            raise LostJail(f"answered with what is no message ({type(error).__name__})") from None

    def names(self, wanted: list[str]) -> dict[str, Any]:
        """Run the notebook; what it has under these names."""
        # Notes of later jails are not told: a function may have left word of what it was called with.
        try:
            self.notes = self.open()
        except LostJail:
            self.notes = self.broken_cells()
            raise
        found = {}
        for name in wanted:
            answer = self.ask("look", name)
            try:
                kind, *rest = answer
                if kind == "function":
                    found[name] = self.function(name)
                elif kind == "value":
                    found[name] = unpack(rest[0])
                elif kind == "other":
                    self.notes += [f"{name}: {text}" for text in _texts(rest)]
            except Exception as error:  # whatever is not as ``inmate`` sends it
                self.notes.append(f"{name}: is no answer ({type(error).__name__})")
        return found

    def all_notes(self) -> list[str]:
        """What to tell of cells, and of functions that broke a jail."""
        return self.notes + [f"{name}: {why}" for name, why in self.left_out.items() if isinstance(name, str)]

    def function(self, name: str) -> Callable[..., Any]:
        """A function that calls the one in the jail, and has nothing else of it."""

        def remote(*args: Any, **kwargs: Any) -> Any:
            if name in self.left_out:
                raise RuntimeError(f"{name} {self.left_out[name]}")
            try:
                kind, *rest = self.ask("call", name, pack((args, kwargs)), seconds=self.limits.seconds / 4)
            except OutOfTime:
                raise
            except LostJail as error:
                self.left_out[name] = str(error)
                self.open()
                raise RuntimeError(f"{name} {error}") from None
            if kind == "returned":
                return unpack(rest[0])
            error = getattr(builtins, str(rest[0]), None)
            known = isinstance(error, type) and issubclass(error, Exception)
            # This one would end a loop of a test as if all were well.
            if not known or issubclass(error, StopIteration):
                error = RuntimeError
            raise error(str(rest[1])[:MOST_TEXT])

        remote.__name__ = name
        return remote


def watch(limits: Limits) -> None:
    """End all that this process has started, whenever it uses more memory or time together than is fair."""
    import psutil

    spent: dict[psutil.Process, float] = {}
    start = time.monotonic()
    while True:
        below = psutil.Process().children(recursive=True)
        used = 0
        for process in below:
            with contextlib.suppress(psutil.Error):
                used += process.memory_info().rss
                spent[process] = sum(process.cpu_times()[:2])
        fair = limits.processors * (time.monotonic() - start + SLACK)
        if used > limits.memory or sum(spent.values()) > fair:
            for process in below:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        time.sleep(0.2)


def _texts(answer: Any) -> list[str]:
    """What the jail has to tell of a cell: at most one text."""
    if type(answer) is not list or len(answer) > 1 or any(type(text) is not str for text in answer):
        raise LostJail("answered with what is no message")
    return [text[:MOST_TEXT] for text in answer]


class Insider:
    """The same without a jail, for the solution of whoever wrote the tests."""

    def __init__(self, cells: list[str]) -> None:
        self.space: dict[str, Any] = {"__name__": "__main__"}
        otter = sys.modules["otter"]
        inmate.stand_ins(self.space)
        try:
            self.notes = [note for i, cell in enumerate(cells) for note in inmate.run(i, cell, self.space)]
        finally:
            sys.modules["otter"] = otter

    def names(self, wanted: list[str]) -> dict[str, Any]:
        return {name: self.space[name] for name in wanted if name in self.space}

    def all_notes(self) -> list[str]:
        return self.notes

    def close(self) -> None:
        pass


def grade(cells: list[str], assignment: Mapping[str, Any], limits: Limits, trusted: bool = False) -> Result:
    """The result of one notebook.

    Args:
        cells: its code, as text.
        assignment: ``tests``: the specifications of Otter's test files by name; ``answers``: the names that students
            define; ``without``: the modules that they can't use.
        limits: what it may take.
        trusted: in this process, without a jail.
    """
    start = time.monotonic()
    tests = {name: OKTestFile.from_spec(dict(spec)) for name, spec in assignment["tests"].items()}
    questions = {name: _unanswered(name, test) for name, test in tests.items()}
    notes: list[str] = []
    status, final = "graded", True
    room: Any = None
    try:
        room = Insider(cells) if trusted else Jail(cells, limits, assignment["without"])
        space = room.names(assignment["answers"])
        # All that students are told comes first: a function may put what it was called with into its next error.
        for hidden in (False, True):
            for name, test in tests.items():
                _run(test, hidden, space, questions[name])
    except (LostJail, CrossingError) as error:
        # What was graded before still counts.
        status, final = str(error), not isinstance(error, NoJail)
    finally:
        if room is not None:
            notes = room.all_notes()
            room.close()
    return Result(status, list(questions.values()), notes, round(time.monotonic() - start, 2), final)


def nothing(why: str, tests: Mapping[str, Any], seconds: float, final: bool = True) -> Result:
    """No points for any of these tests."""
    questions = [_unanswered(name, OKTestFile.from_spec(dict(spec))) for name, spec in tests.items()]
    return Result(why, questions, [], round(seconds, 2), final)


def _unanswered(name: str, test: OKTestFile) -> Question:
    return Question(name, 0.0, float(test.possible), [], (0, sum(case.hidden for case in test.test_cases)))


def _run(test: OKTestFile, hidden: bool, space: Mapping[str, Any], question: Question) -> None:
    """Enter what the hidden tests of a question, or the others, find."""
    some = OKTestFile(test.name, test.path, [case for case in test.test_cases if case.hidden == hidden], False)
    lost: list[LostJail] = []
    some.run({k: _watched(v, lost) for k, v in space.items()})
    if lost:
        # doctest takes any exception for a failed test; this one is the end.
        raise lost[0]
    results = some.test_case_results
    question.score += float(some.score)
    if hidden:
        question.hidden, question.asked = (sum(r.passed for r in results), len(results)), True
    else:
        question.public = [(r.test_case.name, r.passed, _told(r)) for r in results]


def _watched(value: Any, lost: list[LostJail]) -> Any:
    if not callable(value):
        return value

    def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            return value(*args, **kwargs)
        except LostJail as error:
            lost.append(error)
            raise

    return watched


def _told(result: Any) -> str:
    """What a student reads of a public test: its message, and what the error says."""
    if result.passed:
        return str(result.test_case.success_message or "")
    lines = [line for line in (result.message or "").strip().splitlines() if line.strip()]
    error = lines[-1].strip()[:MOST_TEXT] if lines else "failed"
    message = result.test_case.failure_message
    if not message:
        return error
    return str(message) if error == "AssertionError" else f"{message} ({error})"


def work(sender: Connection, cells: list[str], assignment: Mapping[str, Any], limits: Limits) -> None:
    """Grade and send the result, in a process that nobody else needs."""
    # A forged frame may claim any size.  The hard limit stays, for the jail has a limit of its own.
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limits.referee, hard))
    # What the jail inherits of this is no terminal of whoever grades.
    with open(os.devnull, "r+b") as nothing_at_all:
        for number in range(3):
            os.dup2(nothing_at_all.fileno(), number)
    threading.Thread(target=watch, args=(limits,), daemon=True).start()
    sender.send(asdict(grade(cells, assignment, limits)))
    # Threads of a jail that lies may never end.
    sender.close()
    os._exit(0)
