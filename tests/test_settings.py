"""A flag over a variable over the configuration file; what cannot be used is refused with a way out."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from agent_shim.errors import SettingsError
from telemetry.places import Destination, destination_of, read_destination, with_secret, write_destination
from telemetry.settings import (
    SETTINGS,
    VERSION,
    Endpoint,
    Settings,
    default_home,
    without_password,
    worktree_of,
)
from tests.generations import ROOT

VALUES: dict[str, tuple[str, Any, str, Any, str, Any]] = {
    "journal": ("/a.db", "/a.db", "/b.db", "/b.db", "/c.db", "/c.db"),
    "content": ("on", True, "1", True, "yes", True),
    "tails": ("off", False, "0", False, "no", False),
    "include_usage": ("off", "off", "on", "on", "a.example, b.example", "a.example,b.example"),
    "python": ("/a/python", "/a/python", "/b/python", "/b/python", "/c/python", "/c/python"),
    "otlp_endpoint": ("http://a", "http://a", "http://b", "http://b", "http://c", "http://c"),
    "otlp_protocol": ("grpc", "grpc", "grpc", "grpc", "grpc", "grpc"),
}
"""Setting → flag, its value, variable, its value, text in the file, its value."""


def load(tmp_path: Path, environ: dict[str, str] | None = None, **flags: Any) -> Settings:
    return Settings.load({"AGENT_TELEMETRY_HOME": str(tmp_path), **(environ or {})}, flags)


def write_config(folder: Path, key: str, value: str) -> None:
    table, _, name = key.rpartition(".")
    (folder / "config.toml").write_text(f'[{table}]\n{name} = "{value}"' if table else f'{name} = "{value}"')


@pytest.mark.parametrize("name", VALUES)
def test_a_flag_wins_over_a_variable_over_the_file(name: str, tmp_path: Path) -> None:
    setting = next(setting for setting in SETTINGS if setting.name == name)
    flag, of_flag, variable, of_variable, text, of_file = VALUES[name]
    assert setting.key
    write_config(tmp_path, setting.key, text)
    in_file = load(tmp_path)
    in_variable = load(tmp_path, {setting.variable: variable})
    given = load(tmp_path, {setting.variable: variable}, **{name: flag})
    assert [getattr(s, name) for s in (in_file, in_variable, given)] == [of_file, of_variable, of_flag]
    assert [s.sources[name] for s in (in_file, in_variable, given)] == ["config", "environment", "option"]


@pytest.mark.parametrize("setting", SETTINGS[1:], ids=lambda setting: setting.name)
def test_an_empty_variable_counts_as_not_set(setting: Any, tmp_path: Path) -> None:
    settings = load(tmp_path, {setting.variable: ""})
    assert settings.sources[setting.name] == "default"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_the_example_of_a_setting_can_be_used(setting: Any) -> None:
    setting.parse(setting.example)


def test_a_switch_in_the_file_may_be_a_boolean(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("tails = false\ncontent = true\n")
    settings = load(tmp_path)
    assert (settings.tails, settings.content) == (False, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("journal", "mysql://host/db"),
        ("journal", "sqlite://"),
        ("content", "maybe"),
        ("disabled", "perhaps"),
        ("include_usage", "a.example,,b"),
        ("python", "python3"),
        ("otlp_endpoint", "localhost:4318"),
        ("otlp_protocol", "http/json"),
    ],
)
def test_what_cannot_be_used_names_setting_source_and_way_out(name: str, value: str, tmp_path: Path) -> None:
    setting = next(setting for setting in SETTINGS if setting.name == name)
    with pytest.raises(SettingsError) as of_variable:
        load(tmp_path, {setting.variable: value})
    assert all(word in str(of_variable.value) for word in (name, value, setting.variable))
    assert setting.variable in (of_variable.value.hint or "")
    flag = "--endpoint" if name == "otlp_endpoint" else f"--{name.replace('_', '-')}"
    with pytest.raises(SettingsError, match=flag):
        load(tmp_path, **{name: value})
    if setting.key:
        write_config(tmp_path, setting.key, value)
        with pytest.raises(SettingsError, match=r"config\.toml") as of_file:
            load(tmp_path)
        assert setting.key in (of_file.value.hint or "")


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("journal = ")
    with pytest.raises(SettingsError, match=r"config\.toml is not TOML"):
        load(tmp_path)


@pytest.mark.parametrize(
    "slip", ["jurnal = 'x'", "[otlp]\nendpiont = 'x'", "[prices]\nmodel = 'x'", "otlp = 1"]
)
def test_a_key_that_means_nothing_is_named(slip: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(slip)
    with pytest.raises(SettingsError, match=r"jurnal|otlp\.endpiont|prices|otlp") as raised:
        load(tmp_path)
    assert all(known in (raised.value.hint or "") for known in ("journal", "otlp.endpoint", "price"))


def test_the_tables_that_others_read_are_no_slips(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("alias = {}\n[[price]]\ninput = 1.5\n[policy.a]\n")
    assert load(tmp_path).sources["journal"] == "default"


def test_a_list_in_the_file_is_one_of_words_with_commas(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('scratch = ["a", "b/c"]')
    assert load(tmp_path).scratch == ("a", "b/c")


def test_a_relative_journal_in_the_file_is_in_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('journal = "runs.db"')
    assert load(tmp_path).journal == str(tmp_path / "runs.db")


def test_an_error_shows_no_password(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, {"AGENT_TELEMETRY_JOURNAL": "mysql://me:s3cret-word@host/db"})
    assert "s3cret-word" not in str(refused.value)


# --- the data folder -------------------------------------------------------------------------------


def test_the_data_folder_is_the_accounts_own_whatever_home_says(tmp_path: Path) -> None:
    settings = Settings.load(
        {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}, account_home=Path("/home/me")
    )
    assert settings.home == default_home(Path("/home/me"))
    assert settings.journal == str(settings.home / "journal.db")


def test_the_accounts_home_is_asked_of_the_system() -> None:
    assert default_home().is_relative_to(pwd.getpwuid(os.getuid()).pw_dir)


def test_each_platform_has_its_place() -> None:
    me = Path("/home/me")
    assert default_home(me, "linux") == me / ".local/share/agent-telemetry"
    assert default_home(me, "darwin") == me / "Library/Application Support/agent-telemetry"


def test_an_account_without_home_is_told_what_to_set() -> None:
    with pytest.raises(SettingsError) as refused:
        default_home(Path("/"))
    assert "AGENT_TELEMETRY_HOME" in (refused.value.hint or "")


def test_a_relative_data_folder_is_refused() -> None:
    with pytest.raises(SettingsError, match="AGENT_TELEMETRY_HOME"):
        Settings.load({"AGENT_TELEMETRY_HOME": "data"})


@pytest.mark.parametrize("link", ["folder", "file"])
def test_a_data_folder_inside_a_worktree_is_refused(tmp_path: Path, link: str) -> None:
    """A linked worktree has a file ``.git``; a symbolic link into one is inside too."""
    worktree = tmp_path / "repository"
    worktree.mkdir()
    (worktree / ".git").mkdir() if link == "folder" else (worktree / ".git").touch()
    (tmp_path / "elsewhere").symlink_to(worktree)
    for home in (worktree, worktree / "deep" / "data", tmp_path / "elsewhere" / "data"):
        with pytest.raises(SettingsError) as refused:
            Settings.load({"AGENT_TELEMETRY_HOME": str(home)})
        assert str(worktree) in str(refused.value)
        assert "outside" in (refused.value.hint or "")


def test_what_is_beside_a_worktree_is_not_inside(tmp_path: Path) -> None:
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    assert worktree_of(tmp_path / "data") is None


def test_loading_writes_nothing(tmp_path: Path) -> None:
    Settings.load({"AGENT_TELEMETRY_HOME": str(tmp_path / "data")})
    assert list(tmp_path.iterdir()) == []


# --- journal and endpoints -------------------------------------------------------------------------


def test_a_journal_is_a_path_or_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(tmp_path, journal="runs.db").journal == str(tmp_path / "runs.db")
    assert load(tmp_path, journal="sqlite:////var/runs.db").journal == "/var/runs.db"
    assert load(tmp_path, journal="postgresql://me@host/db").journal == "postgresql://me@host/db"


def test_an_endpoint_for_all_gets_the_path_of_the_signal(tmp_path: Path) -> None:
    settings = load(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://host:4318/base/"})
    assert settings.otlp("logs") == Endpoint("http://host:4318/base/v1/logs", "http/protobuf")
    assert settings.otlp("traces") == Endpoint("http://host:4318/base/v1/traces", "http/protobuf")


def test_an_endpoint_for_one_signal_is_used_as_it_is(tmp_path: Path) -> None:
    settings = load(tmp_path, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://jaeger:4318/v1/traces"})
    assert settings.otlp("traces") == Endpoint("http://jaeger:4318/v1/traces", "http/protobuf")
    assert settings.otlp("logs") is None


def test_a_protocol_can_be_set_for_one_signal(tmp_path: Path) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://host:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    settings = load(tmp_path, {**environ, "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/protobuf"})
    assert settings.otlp("traces") == Endpoint("http://host:4317", "grpc")
    assert settings.otlp("logs") == Endpoint("http://host:4317/v1/logs", "http/protobuf")


def test_no_endpoint_is_no_export(tmp_path: Path) -> None:
    assert load(tmp_path).otlp("logs") is None


# --- what is handed on in files --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me@host:5432/db"),
        (
            "postgresql://host/db?user=me&password=secret&sslmode=require",
            "postgresql://host/db?user=me&sslmode=require",
        ),
        ("https://me:secret@host/v1/logs", "https://me@host/v1/logs"),
        ("/var/lib/journal.db", "/var/lib/journal.db"),
    ],
)
def test_a_password_is_never_on_disk(url: str, clean: str, tmp_path: Path) -> None:
    assert without_password(url) == clean
    assert with_secret(clean, ["other", url]) == url
    assert with_secret(clean, []) == clean


def test_a_destination_survives_the_disk(tmp_path: Path) -> None:
    environ = {
        "AGENT_TELEMETRY_JOURNAL": "postgresql://me:secret@host/db",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:secret@host:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret",
    }
    destination = destination_of(load(tmp_path, environ))
    write_destination(tmp_path, "run", destination)
    (file,) = tmp_path.rglob("destination.json")
    assert read_destination(file.parent) == destination
    assert destination.journal == "postgresql://me@host/db"
    assert destination.logs == Endpoint("http://me@host:4318/v1/logs", "http/protobuf")
    assert "secret" not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"journal": 1, "otlp": []}', '{"journal": "a", "otlp": {"logs": 1}}']
)
def test_a_destination_that_cannot_be_read_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "destination.json").write_text(content)
    assert read_destination(tmp_path) is None
    assert read_destination(tmp_path / "missing") is None


def test_a_destination_without_endpoint(tmp_path: Path) -> None:
    write_destination(tmp_path, "run", Destination("/journal.db"))
    assert read_destination(tmp_path / "spool" / "run") == Destination("/journal.db")


# --- this program ----------------------------------------------------------------------------------


def test_the_version_is_that_of_the_project() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def test_settings_start_light() -> None:
    heavy = {"tomllib", "subprocess", "sqlmodel", "click"}
    program = f"import sys, telemetry.settings; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout == b"[]\n"
