"""Run the notebooks strictly under other conditions: one thread, two threads, and no instructions above AVX2.

Stored outputs must not depend on how a sum is split or on which instructions the processor has.
"""

import argparse
import os
import platform
import subprocess
import sys

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# NumPy's names for what it can use above AVX2. It warns when asked to leave out what it would not use anyway, and a
# warning would be a difference, so only those that this machine uses are named.
ABOVE_AVX2 = """
from numpy._core import _multiarray_umath as core
print(*(f for f in core.__cpu_dispatch__ if core.__cpu_features__.get(f) and ("AVX512" in f or f == "X86_V4")))
"""

REPORT = """
import os
import numpy, torch
from numpy._core import _multiarray_umath as core
wide = [f for f in core.__cpu_dispatch__ if core.__cpu_features__.get(f)]
print(f"torch: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}; NumPy: {', '.join(wide) or 'baseline'}")
"""


def python(code: str, **changes: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env={**os.environ, **changes}, check=True, stdout=subprocess.PIPE
    )
    return done.stdout.decode().strip()


def conditions() -> dict[str, dict[str, str]]:
    """Name of each condition and the environment variables that make it."""
    threads = {"one thread": dict.fromkeys(THREADS, "1"), "two threads": dict.fromkeys(THREADS, "2")}
    if platform.machine().lower() not in ("x86_64", "amd64"):
        print(f"AVX2 is left out: it belongs to x86, and this machine is {platform.machine()}.")
        return threads
    avx2 = {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    }
    above = python(ABOVE_AVX2)
    if above:
        avx2["NPY_DISABLE_CPU_FEATURES"] = above
    return {**threads, "nothing above AVX2": avx2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", default=["book"], help="notebooks or folders; without any, all")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks to run at a time (2)")
    asked = parser.parse_args()
    pytest = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", *asked.notebooks]
    if asked.jobs > 1:
        pytest += ["-n", str(asked.jobs), "--dist", "loadfile"]
    failed = []
    for name, changes in conditions().items():
        print(
            f"\n== {name}: {' '.join(f'{k}={v!r}' for k, v in changes.items())}\n{python(REPORT, **changes)}",
            flush=True,
        )
        if subprocess.run(pytest, env={**os.environ, **changes}, check=False).returncode:
            failed.append(name)
    print(f"\nDiffers or fails with: {', '.join(failed)}" if failed else "\nThe same outputs under every condition.")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
