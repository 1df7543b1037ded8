"""The rows of a grading run, kept so that a run which is killed loses none."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any, Self


class BusyError(RuntimeError):
    """Another run is writing the same journal."""


class Journal:
    """The rows so far, in a file: one line each.

    Args:
        path: of the file, which is made if there is none.
        digest: of all that a grade depends on beside the submission; rows of another one don't count.

    Raises:
        BusyError: if another run is writing it.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.digest = digest
        self.file = open(path, "a+b")  # noqa: SIM115
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            raise BusyError(f"{path}: another run is writing it") from None
        self.file.seek(0)
        whole = 0
        for line in self.file:
            if not line.endswith(b"\n"):
                break  # the run was killed in the middle of this line
            whole += len(line)
            entry = json.loads(line)
            if entry["digest"] == digest:
                self.rows[entry["key"]] = entry["row"]
        self.file.truncate(whole)

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
