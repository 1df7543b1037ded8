"""What runs inside the jail: a student's cells, and calls of the functions that they define.

It is sent as text behind ``values`` and ``kernel``, whose names it uses, and is the only thing in there that knows of the grader.
A student may overwrite all of it.  What then comes out is wrong, late or nothing, which is the student's loss.
"""

import builtins
import contextlib
import io
import resource
import sys
import traceback
import types
from typing import Any

MOST_TEXT = 2000


def limit(memory: int, seconds: int, processes: int, file_size: int, without: list[str]) -> None:
    """For good: an ordinary user can't raise them again.  Modules are hidden only from who looks for them as usual."""
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    forbid()  # type: ignore[name-defined]  # noqa: F821
    sys.modules.update(dict.fromkeys(without))  # type: ignore[arg-type]  # None: there is no such module


def stand_ins(space: dict[str, Any]) -> None:
    """``otter`` and Jupyter as students know them, without effect but for what runs code of the notebook."""

    class Shell:
        def run_line_magic(self, name: str, line: str, *args: Any) -> None:
            if name == "time":
                exec(line, space)

        def run_cell_magic(self, name: str, line: str, cell: str) -> None:
            if name in ("time", "capture"):
                exec(cell, space)

        def system(self, *args: Any) -> None:
            pass

        getoutput = system

    class Notebook:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            pass

        def check(self, *args: Any, **kwargs: Any) -> None:
            pass

        check_all = export = check

    otter = types.ModuleType("otter")
    otter.Notebook = Notebook  # type: ignore[attr-defined]
    sys.modules["otter"] = otter
    space |= {"get_ipython": Shell, "display": lambda *objects, **options: None}


class Silent(io.TextIOBase):
    """Takes all that is printed, and keeps none of it."""

    def write(self, text: str) -> int:
        return len(text)


def run(number: int, cell: str, space: dict[str, Any]) -> list[str]:
    """One cell; its error, if there is one."""
    try:
        with contextlib.redirect_stdout(Silent()), contextlib.redirect_stderr(Silent()):
            exec(compile(cell, f"cell {number + 1}", "exec"), space)
    except BaseException as error:  # SystemExit and the like end a cell, not the row
        return [f"cell {number + 1}: {type(error).__name__}: {error}"[:MOST_TEXT]]
    return []


def call(space: dict[str, Any], name: str, args: Any) -> tuple[Any, ...]:
    """What a function of the student gives, or raises."""
    try:
        positional, named = unpack(args)  # type: ignore[name-defined]  # noqa: F821
        with contextlib.redirect_stdout(Silent()), contextlib.redirect_stderr(Silent()):
            returned = space[name](*positional, **named)
        return "returned", pack(returned)  # type: ignore[name-defined]  # noqa: F821
    except BaseException as error:
        kind = next((c.__name__ for c in type(error).__mro__ if vars(builtins).get(c.__name__) is c), "Exception")
        return "raised", kind, "".join(traceback.format_exception_only(error))[:MOST_TEXT]


def look(space: dict[str, Any], name: str) -> tuple[Any, ...]:
    """What a name stands for."""
    if name not in space:
        return ("missing",)
    value = space[name]
    if value is ...:
        return "other", "not answered"
    if isinstance(value, types.FunctionType | type) or (callable(value) and not hasattr(value, "shape")):
        return ("function",)
    try:
        return "value", pack(value)  # type: ignore[name-defined]  # noqa: F821
    except Exception as error:
        return "other", str(error)[:MOST_TEXT]


def serve(channel: Any) -> None:
    """Answer until the channel closes."""
    space: dict[str, Any] = {"__name__": "__main__"}
    order, *what = channel.receive()
    limit(*what)
    stand_ins(space)
    channel.send(order)
    for order, *what in channel:
        if order == "run":
            channel.send(run(*what, space))
        elif order == "look":
            channel.send(look(space, what[0]))
        elif order == "call":
            channel.send(call(space, *what))


if __name__ == "__channelexec__":
    serve(channel)  # type: ignore[name-defined]  # noqa: F821
