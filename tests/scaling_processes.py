"""What tests/test_scaling_out.py starts with torchrun: the examples with several command lines, in one group.

Runs each as ``python examples/NAME.py ARGUMENTS`` would in this process, and writes what it prints to a file for each
process in the folder that is the first argument.  The second is a file with the command lines.
"""

import contextlib
import json
import os
import runpy
import sys
from pathlib import Path

import torch.distributed as dist


def main(folder: Path, lines: dict[str, list[str]]) -> None:
    # The first example opens the group as it does by itself; the others find it open, since to start processes takes
    # longer than all that they do.
    begin, end = dist.init_process_group, dist.destroy_process_group
    dist.init_process_group = lambda backend: None if dist.is_initialized() else begin(backend)
    dist.destroy_process_group = lambda: None
    for name, (script, *arguments) in lines.items():
        sys.argv = [script, *arguments]
        sys.path[0] = str(Path(script).parent)
        said = folder / f"{name} {os.environ['RANK']}"
        with said.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            runpy.run_path(script, run_name="__main__")
    end()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
