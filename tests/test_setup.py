"""The set-up: pins and ranges agree, the commands that are written down exist, the package says what it offers."""

import importlib
import inspect
import pkgutil
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import prose
import quantcourse

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]


def listed(name: str) -> dict[str, tuple[Requirement, str]]:
    """The requirements in a file, by package, each with the comment beside it."""
    found = {}
    for line in (ROOT / name).read_text("utf8").splitlines():
        stated, _, comment = line.partition("#")
        if stated.strip():
            requirement = Requirement(stated)
            found[canonicalize_name(requirement.name)] = (requirement, comment.strip())
    return found


DIRECT = listed("requirements.txt")
PINNED = listed("constraints.txt")


def version(requirement: Requirement) -> Version:
    (pin,) = requirement.specifier
    assert pin.operator == "==", f"{requirement} is not pinned"
    return Version(pin.version)


def test_requirements_are_pinned_with_a_reason() -> None:
    for name, (requirement, reason) in DIRECT.items():
        assert reason, f"say beside {name} what it is for"
        assert version(PINNED[name][0]) == version(requirement)
    assert version(DIRECT["torch"][0]) == Version("2.13.0")


def test_constraints_are_what_requirements_pull() -> None:
    """Nothing missing, nothing stray; packages of another platform carry a marker and are taken as they are."""
    pulled: set[str] = set()
    waiting = [requirement for requirement, _ in DIRECT.values()]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        extras = ["", *requirement.extras]
        if name in pulled and len(extras) == 1:
            continue
        pulled.add(name)
        for line in metadata.requires(name) or []:
            below = Requirement(line)
            if below.marker is None or any(below.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(below)
    pulled = {name for name in pulled if not name.startswith(("nvidia-", "cuda-", "triton"))}  # torch pins them itself
    elsewhere = {name for name, (requirement, _) in PINNED.items() if requirement.marker}
    assert pulled - set(PINNED) == set()
    assert set(PINNED) - pulled - elsewhere == set()


def test_installed_is_what_is_pinned() -> None:
    differs = {}
    for name, (requirement, _) in PINNED.items():
        if requirement.marker is None or requirement.marker.evaluate():
            installed = Version(Version(metadata.version(name)).public)  # without +cpu and the like
            if installed != version(requirement):
                differs[name] = (str(installed), str(version(requirement)))
    assert not differs, "installed, pinned: run `make book` again, or pip install as the README says"


def test_ranges_of_the_package_admit_the_pins() -> None:
    extras = PROJECT["optional-dependencies"]
    for line in [*PROJECT["dependencies"], *(line for lines in extras.values() for line in lines)]:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name != PROJECT["name"]:
            assert requirement.specifier.contains(version(DIRECT[name][0]), prereleases=True), line


def test_citation_file_agrees() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["authors"] == [{"name": "The quantcourse authors"}]
    assert {"cff-version", "message", "title", "type", "license"} <= set(citation)
    assert f"[{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text("utf8")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_what_is_written_down_exists(name: str) -> None:
    """Targets of make, files and anchors that the text names."""
    stored = (ROOT / name).read_text("utf8")
    makefile = (ROOT / "Makefile").read_text("utf8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", stored, re.MULTILINE)) <= targets
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", stored):
        assert (ROOT / link).exists(), link
    for path in re.findall(r"`((?:book|tests|tools|quantcourse|benchmarks)/[\w./-]*)`", stored):
        assert (ROOT / path).exists(), path


def test_readme_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text("utf8")
    readme = (ROOT / "README.md").read_text("utf8")
    for target in re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE):
        assert f"make {target}" in readme


def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of the README: their comments say what they print."""
    monkeypatch.chdir(tmp_path)  # they write files
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf8"), re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict[str, object] = {}
        for line in block.splitlines():
            code, _, shown = line.partition("  # ")
            if shown:
                assert repr(eval(code, names)) == shown.strip(), code
            else:
                exec(code, names)


MODULES = [m.name for m in pkgutil.iter_modules(quantcourse.__path__) if not m.name.startswith("_")]


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_docstrings(name: str) -> None:
    module = importlib.import_module(f"quantcourse.{name}")
    assert inspect.getdoc(module)
    bare = []
    for key, value in vars(module).items():
        if key.startswith("_") or getattr(value, "__module__", "") != module.__name__:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            members = [m for m in vars(value).items() if not m[0].startswith("_")] if inspect.isclass(value) else []
            if not value.__doc__:
                bare.append(key)
            bare += [f"{key}.{k}" for k, v in members if inspect.isfunction(v) and not v.__doc__]
    assert not bare


def test_chapters_that_docstrings_name_exist() -> None:
    """Each as it is titled: "Chapter: *X*", "in the chapters *X* and *Y*", "on the page *X*"."""
    books = sorted((ROOT / "book").glob("*.ipynb"))
    titles = {prose.load(path)[0]["source"].splitlines()[0].removeprefix("# ") for path in books}
    assert "Fixed point" in titles
    unknown = set()
    for path in sorted((ROOT / "quantcourse").glob("*.py")):
        source = " ".join(path.read_text("utf8").split())
        for names in re.findall(r"\b(?:[Cc]hapters?:?|pages?) (\*[^.;)]*)", source):
            unknown |= {(path.name, name) for name in re.findall(r"\*([^*]+)\*", names) if name not in titles}
    assert not unknown


def test_chapters_import_only_public_names() -> None:
    """A reader may use whatever a chapter uses."""
    for path in sorted((ROOT / "book").rglob("*.ipynb")):
        for cell in prose.load(path):
            if cell["cell_type"] == "code":
                assert not re.search(r"from quantcourse[\w.]* import .*\b_|quantcourse\._", cell["source"]), path.name
