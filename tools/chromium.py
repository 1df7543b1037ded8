"""Make sure that there is a Chromium for the browser tests: find one, or install Debian's, or say what to install."""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """Path of the browser: what the variable CHROMIUM names, else the first of ``NAMES`` on the path."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def main() -> int:
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if not find() and root and shutil.which("apt-get"):
        print("No Chromium here: installing Debian's.", flush=True)
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
            if subprocess.run(["apt-get", *command], env=quiet, check=False).returncode:
                break
    path = find()
    if not path or not shutil.which(path):
        what = f"CHROMIUM={path} is not a program." if path else "The browser tests need Chromium."
        print(
            f"{what}\n"
            "  Debian, Ubuntu:  sudo apt-get install chromium\n"
            "  Fedora:          sudo dnf install chromium\n"
            "  elsewhere:       install Chromium or Chrome, and name its program: CHROMIUM=/path/to/it make test-browser",
            file=sys.stderr,
        )
        return 1
    print(f"Browser: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
