"""Who may import whom, and what our code brings into other people's interpreters."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.generations import ROOT, find_python

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHIM = ROOT / "agent_shim"
OURS = ("agent_shim", "telemetry")

HEAVY = {
    "alembic",
    "genai_prices",
    "openai",
    "opentelemetry",
    "pydantic",
    "requests",
    "sqlalchemy",
    "sqlmodel",
    "starlette",
    "tiktoken",
    "uvicorn",
}
"""What costs tenths of a second to import."""

SLOW_TO_START = {"asyncio", "dataclasses", "email", "http", "inspect", "logging", "socket", "sqlite3", "ssl"}
"""Parts of the standard library that an agent may do without, so it must not get them from us."""


def modules(package: str) -> list[str]:
    """The modules of one of our packages; of a sub-package the name alone."""
    folder = ROOT / package
    files = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    folders = [path.parent.name for path in folder.glob("*/__init__.py")]
    return sorted(f"{package}.{name}" for name in files + folders)


def python(program: str, *options: str, interpreter: str | Path = sys.executable) -> str:
    """What `program` prints, run from the root of the project."""
    done = subprocess.run(
        [interpreter, *options, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(*names: str) -> set[str]:
    """The top-level packages that a fresh interpreter has after importing these modules."""
    program = f"import sys, {', '.join(names)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(python(program).split())


# --- the order of the layers ----------------------------------------------------------------------


def test_imports_point_upstream() -> None:
    """The contracts of ``pyproject.toml`` hold."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", [name for package in OURS for name in modules(package)])
def test_every_module_has_its_place_in_the_layers(module: str) -> None:
    """A module that stands in no layer may import anything, and no contract would say so."""
    order = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    assert module in re.findall(r"[\w.]+", " ".join(order["layers"]))


def test_every_package_that_is_imported_is_declared() -> None:
    """A package that comes only with another one goes away with it."""
    declared = {_normal(re.split(r"[^\w.-]", line)[0]) for line in _declared()}
    providers = packages_distributions()
    for path, name in _third_party_imports():
        names = {_normal(distribution) for distribution in providers.get(name, [])}
        assert names & declared, f"{path.relative_to(ROOT)} imports {name}, which no dependency declares"


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _declared() -> list[str]:
    project = PROJECT["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["postgres"]]


def _third_party_imports() -> Iterator[tuple[Path, str]]:
    for package in OURS:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                for name in _imported(node):
                    if name not in sys.stdlib_module_names and name not in (*OURS, path.stem):
                        yield path, name


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [node.module.partition(".")[0]]
    return []


# --- in the agent's interpreter -------------------------------------------------------------------

LOAD = """
import importlib.util, json, sys
before = set(sys.modules)
spec = importlib.util.spec_from_file_location("bootstrap", {bootstrap!r})
bootstrap = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bootstrap)
bootstrap.load()
for name in {names!r}:
    importlib.import_module(bootstrap.PRIVATE_NAME + "." + name)
foreign = {{n.partition(".")[0] for n in set(sys.modules) - before}} - set(sys.stdlib_module_names)
print(json.dumps({{"foreign": sorted(foreign), "loaded": sorted(sys.modules)}}))
"""


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_the_agents_side_needs_the_standard_library_alone(version: str) -> None:
    """Every module of ``agent_shim`` loads under its private name, in an interpreter that has nothing."""
    names = [module.partition(".")[2] for module in modules("agent_shim")]
    interpreter = find_python(version)
    if interpreter is None:
        pytest.skip(f"no Python {version} is installed")
    program = LOAD.format(bootstrap=str(SHIM / "bootstrap.py"), names=names)
    found = json.loads(python(program, "-S", "-I", interpreter=interpreter))
    assert found["foreign"] == ["_agent_telemetry_shim"]


def test_hooking_a_process_loads_nothing_slow() -> None:
    """What the agent's process gets from us at its start, over and above a bare interpreter."""
    program = LOAD.format(bootstrap=str(SHIM / "bootstrap.py"), names=["attached"])
    loaded = json.loads(python(program, "-S", "-I"))["loaded"]
    assert SLOW_TO_START.isdisjoint(name.partition(".")[0] for name in loaded)


# --- in our own processes -------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["wrapper", "stand_in", "launch", "identity", "settings"])
def test_what_stands_before_the_agent_starts_light(module: str) -> None:
    """The wrapper is in the way of every run: it loads the standard library and ours, nothing else."""
    loaded = {name for name in loaded_by(f"telemetry.{module}") if not name.startswith("_")}
    bare = set(python("import sys; print(*{n.partition('.')[0] for n in sys.modules})").split())
    assert loaded - bare - set(sys.stdlib_module_names) <= set(OURS)


def test_the_command_line_explains_itself_without_loading_the_heavy_packages() -> None:
    """``-h`` answers at once: commands import what they need when they run."""
    assert HEAVY.isdisjoint(loaded_by("telemetry.cli"))


def test_the_sink_needs_no_client_of_a_model() -> None:
    """It stores what others saw."""
    assert {"openai", "tiktoken", "genai_prices"}.isdisjoint(loaded_by("telemetry.sink"))


QUIET = """
import importlib, os, sys, threading
DEEDS = {"os.putenv", "os.unsetenv", "os.mkdir", "os.remove", "os.rename", "socket.bind", "socket.connect",
         "sqlite3.connect", "subprocess.Popen"}
did = []

def hook(name, arguments):
    writes = name == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if (writes or name in DEEDS) and is_ours(sys._getframe(1)):
        did.append(f"{name} {arguments}")

def is_ours(frame):
    while frame is not None:
        path = frame.f_code.co_filename
        if "site-packages" in path:
            return False
        if path.startswith(os.getcwd()):
            return True
        frame = frame.f_back
    return False

sys.addaudithook(hook)
for module in {modules!r}:
    importlib.import_module(module)
did += [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
assert not did, did
"""


def test_importing_does_nothing_else() -> None:
    """No module of ours writes, connects, starts or sets anything by being imported."""
    ours = [name for package in OURS for name in modules(package) if name != "telemetry.migrations"]
    assert python(QUIET.replace("{modules!r}", repr(ours)), "-B") == ""
