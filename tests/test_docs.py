"""The pages say what the code does, and nothing that only one machine knows stands in the repository."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from agent_shim import events
from docs.generate import FOLDER, PAGES
from telemetry.settings import SETTINGS
from tests.generations import ROOT

LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
VARIABLE = re.compile(r"\bAGENT_TELEMETRY_[A-Z_]+\b")


def tracked() -> list[Path]:
    """The files that are, or are about to be, part of the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def pages() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".md"]


def prose() -> str:
    return "\n".join(path.read_text() for path in pages())


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    """`make docs` would change nothing."""
    assert (FOLDER / name).read_text() == PAGES[name](), "run `make docs`"


@pytest.mark.parametrize("name", events.VOCABULARY)
def test_every_event_and_each_of_its_fields_is_documented(name: str) -> None:
    """By its name on the wire, with what it means."""
    section = (FOLDER / "events.md").read_text().partition(f"### `{name}`\n")[2].partition("\n### ")[0]
    assert section.strip().partition("\n")[0].endswith("."), f"{name} has no sentence"
    for field in events.VOCABULARY[name]._fields:
        assert f"| `{field}`" in section


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_is_documented(setting: object) -> None:
    """With its variable and a sentence."""
    page = (FOLDER / "settings.md").read_text()
    assert f"`{setting.variable}`" in page  # type: ignore[attr-defined]
    assert setting.help.endswith(".")  # type: ignore[attr-defined]


def test_every_variable_that_the_code_names_is_documented() -> None:
    """A variable is an interface, also one that only our own processes hand to each other."""
    code = [path for package in ("agent_shim", "telemetry") for path in (ROOT / package).rglob("*.py")]
    named = {match for path in code for match in VARIABLE.findall(path.read_text())}
    assert named - set(VARIABLE.findall(prose())) == set()


def test_every_command_is_documented_and_explains_itself() -> None:
    """Each command and option has a help text, so that its page has one."""
    from telemetry.cli import main

    page = (FOLDER / "commands.md").read_text()
    for path, command in _commands(main, "agent-telemetry"):
        assert f"## `{path}`" in page
        assert command.help, f"{path} says nothing of itself"
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, f"{path} {option.name}"


def test_every_command_that_a_page_names_exists() -> None:
    """``agent-telemetry …`` and ``make …`` in the pages are those that there are."""
    from telemetry.cli import main

    commands = {path for path, _ in _commands(main, "agent-telemetry")}
    for named in re.findall(r"(?:^|`|\$ )(agent-telemetry [a-z][a-z-]+)", prose(), re.MULTILINE):
        assert named in commands, named
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for named in re.findall(r"(?:^|`)make ([a-z]+)", prose(), re.MULTILINE):
        assert named in targets, f"make {named}"


def _commands(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
    children = command.commands.items() if isinstance(command, click.Group) else ()
    below = [found for name, child in children for found in _commands(child, f"{path} {name}")]
    return [(path, command), *below]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Links to other files of the repository, from where they stand."""
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_decision_is_in_the_index_with_its_title() -> None:
    """Numbered from 1 without a gap."""
    folder = FOLDER / "decisions"
    records = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    assert [path.name[:4] for path in records] == [f"{n:04d}" for n in range(1, len(records) + 1)]
    index = (folder / "README.md").read_text()
    for path in records:
        title = path.read_text().partition("\n")[0].removeprefix(f"# {path.name[:4]}: ")
        assert f"| [{path.name[:4]}]({path.name}) | {title} |" in index


def test_the_changelog_is_about_this_version() -> None:
    """The topmost release is the version of the project, or what is to become it."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    topmost = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert topmost in ("Unreleased", version)


FOREIGN = re.compile(
    r"pypi\.org|pythonhosted\.org|registry\.npmjs|proxy\.golang|deb\.debian|extra-index-url"
    r"|(?<![\w.~-])/(?:work|root|opt/wheels)/"
)
"""Addresses of package registries, and folders that only the machine of one developer has."""


def test_no_file_names_a_registry_or_a_folder_of_one_machine() -> None:
    """Where packages come from is for the machine to say; paths are relative to the repository."""
    found = {}
    for path in tracked():
        text = path.read_text(errors="replace")
        if path != Path(__file__) and FOREIGN.search(text):
            found[str(path.relative_to(ROOT))] = FOREIGN.findall(text)
    assert found == {}


TEST = re.compile(r"`(tests/test_\w+\.py)::(\w+)`")


def test_every_test_that_a_page_names_exists() -> None:
    named = TEST.findall(prose())
    assert named
    assert [one for one in named if f"\ndef {one[1]}(" not in (ROOT / one[0]).read_text()] == []


def test_every_case_around_the_agent_names_its_test() -> None:
    """The first table has the outcomes, which are no cases, and the last one what is not recorded."""
    lines = around_the_agent()
    assert lines
    assert [line for line in lines if not TEST.search(line)] == []


def test_every_fault_of_the_list_has_its_case_around_the_agent() -> None:
    rows = [line.split("|")[1] for line in around_the_agent()]
    assert {row for cell in rows for row in re.findall(r"W\d\d", cell)} == {f"W{n:02d}" for n in range(1, 35)}


def around_the_agent() -> list[str]:
    _, _, cases = (FOLDER / "wrapper.md").read_text().partition("\n## ")
    cases, _, _ = cases.partition("\n## Where the record is another")
    return [line for line in cases.splitlines() if line.startswith("| ") and not line.startswith("| row")]


def test_every_case_of_otlp_names_its_test() -> None:
    _, _, cases = (FOLDER / "sink.md").read_text().partition("\n## OTLP, case by case\n")
    lines = [line for line in cases.splitlines() if line.startswith("| ") and not line.startswith("| case")]
    assert lines
    assert [line for line in lines if not TEST.search(line)] == []
