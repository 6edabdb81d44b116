"""What is shipped is what is here."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.generations import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a wheel of this project."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(built).namelist())


@pytest.mark.parametrize("package", ["agent_shim", "telemetry"])
def test_a_wheel_has_every_file_of_the_packages(package: str, wheel: set[str]) -> None:
    """Migrations, the price table and the ``sitecustomize`` folder are files like any other."""
    files = (path for path in (ROOT / package).rglob("*") if path.is_file())
    here = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    assert here <= wheel


def test_a_wheel_has_nothing_else(wheel: set[str]) -> None:
    """No tests, no examples, no second top-level name in someone's environment."""
    tops = {name.partition("/")[0] for name in wheel}
    assert tops == {"agent_shim", "telemetry", f"agent_telemetry-{PROJECT['version']}.dist-info"}


@pytest.mark.parametrize("name", PROJECT["scripts"])
def test_every_command_is_installed_and_leads_somewhere(name: str) -> None:
    """The function that a console script calls is there."""
    (script,) = entry_points(group="console_scripts", name=name)
    assert callable(script.load())
    assert Path(sys.executable).with_name(name).exists()


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_a_lock_pins_every_package_with_hashes(lock: Path) -> None:
    """One version each, and no option that says where to look."""
    requirements = lock.read_text().replace("\\\n", " ").splitlines()
    for line in (line for line in requirements if line and not line.startswith("#")):
        assert "==" in line, line
        assert "--hash=sha256:" in line, line
        assert not line.startswith("-"), line


def test_the_lock_knows_every_dependency() -> None:
    """A dependency that was added or widened needs `make lock`."""
    lock = (ROOT / "requirements" / "development.txt").read_text()
    pinned = {line.partition("==")[0] for line in lock.splitlines() if "==" in line}
    for dependency in PROJECT["dependencies"]:
        assert dependency.partition(">")[0] in pinned
