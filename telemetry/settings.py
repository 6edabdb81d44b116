"""Settings: a flag over a variable over one ``config.toml``, and where everything is kept.

Promises, each a test in ``tests/test_settings.py``:

* Every setting is one entry of `SETTINGS`; ``docs/settings.md`` is generated from it.
* A value that cannot be used raises `SettingsError`, which names the setting, where the value came
  from, and the way out. An empty variable counts as not set.
* The data folder is absolute, does not depend on ``HOME`` or ``XDG_*`` (pipelines replace them), and is
  never inside a git worktree, where an agent would find it and commit it.
* Loading reads at most one file and writes none. Secrets (a password of the journal, OTLP headers) are
  taken from the environment and are never part of what is handed on in files.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from agent_shim.errors import SettingsError
from telemetry import config_file

VERSION = "0.1.0"
"""Of this program; ``pyproject.toml`` says the same, which a test holds together."""
APPLICATION = "agent-telemetry"
CONFIG = config_file.NAME
OTLP_PROTOCOLS = ("http/protobuf", "grpc")
"""``http/json`` of the specification is left out: the exporters in use do not speak it."""

SCRATCH = (".bench_scratch", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache")
"""Folders of ISO-Bench's and of common tools' own."""


# --- how a value is read: each raises ValueError with what is wrong --------------------------------


def _text(value: str) -> str:
    return value


def _switch(value: str) -> bool:
    word = value.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError("is neither on nor off")


def _folder(value: str) -> Path:
    path = Path(value).expanduser()
    if not path.is_absolute():
        raise ValueError("is not an absolute path")
    return path


def _absolute(value: str) -> str:
    return os.path.normpath(Path(value).expanduser().absolute())


def _program(value: str) -> str:
    if os.sep not in value:
        raise ValueError("is not a path of an interpreter")
    return _absolute(value)


def _journal(value: str) -> str:
    scheme, found, rest = value.partition("://")
    if not found:
        return _absolute(value)
    if scheme == "sqlite":
        if not rest.startswith("/") or rest == "/":
            raise ValueError("names no file (a SQLite URL is sqlite:////absolute/path.db)")
        return _absolute(rest[1:])
    if scheme in ("postgresql", "postgresql+psycopg"):
        return value
    if scheme in ("http", "https") and urlsplit(value).hostname:
        return value.rstrip("/")
    raise ValueError(f"has a scheme that is not known: {scheme}")


def _include_usage(value: str) -> str:
    hosts = [host.strip() for host in value.split(",")]
    if any(not host or set(host) & set(" /@") for host in hosts):
        raise ValueError("is neither on, off nor a list of host names")
    return ",".join(hosts)


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError("is not an http:// or https:// URL")
    return value


def _protocol(value: str) -> str:
    if value not in OTLP_PROTOCOLS:
        raise ValueError(f"is not one of {', '.join(OTLP_PROTOCOLS)}")
    return value


def _names(value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if any(os.path.isabs(name) or ".." in name.split("/") for name in names):  # noqa: PTH117 - text
        raise ValueError("is no list of names inside a worktree")
    return names


class Setting(NamedTuple):
    """One thing that can be set."""

    name: str
    """Attribute of `Settings`; its flag is ``--name`` with dashes (`_flag`), where a command has one."""
    variable: str
    key: str | None
    """Dotted key in ``config.toml``; ``None``: cannot be set for the whole data folder."""
    default: Any
    help: str
    parse: Callable[[str], Any]
    example: str
    """Shown in the hint of an error."""


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "home", "AGENT_TELEMETRY_HOME", None, None,
        "Data folder: spool, journal, config.toml. By default the user data folder of the account"
        " (Linux: ~/.local/share/agent-telemetry, macOS: ~/Library/Application Support/agent-telemetry)."
        " Never inside a git worktree.",
        _folder, "/var/lib/agent-telemetry",
    ),
    Setting(
        "journal", "AGENT_TELEMETRY_JOURNAL", "journal", None,
        "The journal: path of a SQLite file, a postgresql:// URL, or the http:// URL of a sink, through"
        " which it is written but not read. By default journal.db in the data folder. A password in it"
        " stays in the environment and is never written to disk.",
        _journal, "postgresql://user@host/journal",
    ),
    Setting(
        "disabled", "AGENT_TELEMETRY_DISABLED", None, False,
        "Run the agent plainly: nothing is recorded and nothing of this program stays in the way.",
        _switch, "1",
    ),
    Setting(
        "content", "AGENT_TELEMETRY_CONTENT", "content", False,
        "Keep the content of prompts, answers and tool calls, secrets removed.",
        _switch, "on",
    ),
    Setting(
        "tails", "AGENT_TELEMETRY_TAILS", "tails", True,
        "Keep the last 8 KiB of the agent's stdout and stderr, secrets removed. When off, both streams"
        " are handed to the agent as they are and nothing of them is seen.",
        _switch, "off",
    ),
    Setting(
        "patch_text", "AGENT_TELEMETRY_PATCH_TEXT", "patch_text", True,
        "Keep the text of the patch that a run made, secrets removed, up to 256 KiB. Its facts are kept"
        " either way.",
        _switch, "off",
    ),
    Setting(
        "scratch", "AGENT_TELEMETRY_SCRATCH", "scratch", SCRATCH,
        "Folders whose untracked files are no part of a patch: a comma separated list of names.",
        _names, ".bench_scratch,__pycache__",
    ),
    Setting(
        "include_usage", "AGENT_TELEMETRY_INCLUDE_USAGE", "include_usage", "on",
        "Ask for the usage of streamed chat completions: on (hosts known to support it), off, or a comma"
        " separated list of further hosts.",
        _include_usage, "off",
    ),
    Setting(
        "commit", "AGENT_TELEMETRY_COMMIT", None, None,
        "The commit that the run works on. By default: prompt.json beside the trajectory file, the"
        " branch agent/<task>/<sha>, HEAD.",
        _text, "8a3f2c91",
    ),
    Setting(
        "repo", "AGENT_TELEMETRY_REPO", None, None,
        "The repository that the commit belongs to. By default its remote, else its path.",
        _text, "https://github.com/vllm-project/vllm",
    ),
    Setting(
        "task", "AGENT_TELEMETRY_TASK", None, None,
        "The pipeline's own name of the task. Never used as identity.",
        _text, "vllm_core-0001",
    ),
    Setting(
        "batch", "AGENT_TELEMETRY_BATCH", None, None,
        "The pipeline's own name of the batch or plan that the run belongs to.",
        _text, "vllm_core",
    ),
    Setting(
        "python", "AGENT_TELEMETRY_PYTHON", "python", None,
        "The interpreter that agent-telemetry-python stands in for.",
        _program, "/path/to/bench-env/bin/python",
    ),
    Setting(
        "otlp_endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT", "otlp.endpoint", None,
        "OpenTelemetry endpoint that gets logs and spans in addition to the journal.",
        _endpoint, "http://localhost:4318",
    ),
    Setting(
        "otlp_protocol", "OTEL_EXPORTER_OTLP_PROTOCOL", "otlp.protocol", "http/protobuf",
        "Protocol of the OpenTelemetry endpoint: http/protobuf or grpc.",
        _protocol, "grpc",
    ),
    Setting(
        "otlp_logs_endpoint", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "otlp.logs_endpoint", None,
        "Endpoint for logs alone; used as it is, without /v1/logs being added.",
        _endpoint, "http://localhost:4318/v1/logs",
    ),
    Setting(
        "otlp_logs_protocol", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "otlp.logs_protocol", None,
        "Protocol for logs alone.",
        _protocol, "grpc",
    ),
    Setting(
        "otlp_traces_endpoint", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "otlp.traces_endpoint", None,
        "Endpoint for spans alone; used as it is, without /v1/traces being added.",
        _endpoint, "http://localhost:4318/v1/traces",
    ),
    Setting(
        "otlp_traces_protocol", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "otlp.traces_protocol", None,
        "Protocol for spans alone.",
        _protocol, "grpc",
    ),
    Setting(
        "jaeger", "AGENT_TELEMETRY_JAEGER", "jaeger.url", None,
        "Address of Jaeger's page; `show` then links to the trace of a run.",
        _endpoint, "http://localhost:16686",
    ),
)  # fmt: skip
"""Every setting, in the order of the documentation."""
_DISABLED = next(setting for setting in SETTINGS if setting.name == "disabled")


class Endpoint(NamedTuple):
    """Where one OTLP signal goes."""

    url: str
    """With the path of the signal for HTTP, as given for gRPC."""
    protocol: str


class Settings(NamedTuple):
    """All settings with their values. Made by `Settings.load`."""

    home: Path
    journal: str
    """Absolute path of a SQLite file, or a URL; may hold a password (`without_password`)."""
    disabled: bool
    content: bool
    tails: bool
    patch_text: bool
    scratch: tuple[str, ...]
    include_usage: str
    commit: str | None
    repo: str | None
    task: str | None
    batch: str | None
    python: str | None
    otlp_endpoint: str | None
    otlp_protocol: str
    otlp_logs_endpoint: str | None
    otlp_logs_protocol: str | None
    otlp_traces_endpoint: str | None
    otlp_traces_protocol: str | None
    jaeger: str | None
    sources: Mapping[str, str]
    """Setting → ``option``, ``environment``, ``config`` or ``default``."""

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str],
        flags: Mapping[str, Any] | None = None,
        *,
        account_home: Path | None = None,
    ) -> Settings:
        """The settings of this command. `flags` holds values by setting name; ``None`` is not given.

        `account_home` is the account's own home folder, asked of the system when left out.
        Raises `SettingsError`.
        """
        given = {name: value for name, value in (flags or {}).items() if value is not None}
        sources: dict[str, str] = {}
        values: dict[str, Any] = {}
        values["home"] = _home(environ, given, sources, account_home)
        config = config_file.read(values["home"] / CONFIG)
        config_file.check_keys(config, [s.key for s in SETTINGS if s.key], values["home"] / CONFIG)
        for setting in SETTINGS[1:]:
            values[setting.name] = _value(setting, environ, given, sources, config, values["home"])
        if values["journal"] is None:
            values["journal"] = str(values["home"] / "journal.db")
        return cls(**values, sources=MappingProxyType(sources))

    def otlp(self, signal: str) -> Endpoint | None:
        """Where `signal` (``logs`` or ``traces``) goes; ``None``: nowhere.

        As the OpenTelemetry specification says: an endpoint for one signal is used as it is, the common
        one gets the signal's path for HTTP.
        """
        own: str | None = getattr(self, f"otlp_{signal}_endpoint")
        protocol: str = getattr(self, f"otlp_{signal}_protocol") or self.otlp_protocol
        if own:
            return Endpoint(own, protocol)
        if not self.otlp_endpoint:
            return None
        if protocol == "grpc":
            return Endpoint(self.otlp_endpoint, protocol)
        return Endpoint(f"{self.otlp_endpoint.rstrip('/')}/v1/{signal}", protocol)


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Whether nothing is to be recorded; to be asked first: it holds with settings that cannot be used.

    Raises `SettingsError` when the variable is neither on nor off.
    """
    return bool(_value(_DISABLED, environ, {}, {}))


def is_remote(place: str) -> bool:
    """Whether the place of a journal is the URL of a sink."""
    return place.startswith(("http://", "https://"))


def without_password(url: str) -> str:
    """A journal or an endpoint without the password that its URL may hold."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    query = "&".join(p for p in parts.query.split("&") if p and not p.lower().startswith("password="))
    return urlunsplit(parts._replace(netloc=f"{login.partition(':')[0]}{at}{host}", query=query))


def default_home(account_home: Path | None = None, platform: str = sys.platform) -> Path:
    """The user data folder of the account. Raises `SettingsError` when the account has no home."""
    if account_home is None:
        try:
            account_home = Path(pwd.getpwuid(os.getuid()).pw_dir)
        except KeyError:
            account_home = Path()
    if not account_home.is_absolute() or account_home == Path("/"):
        raise SettingsError(
            f"the account {os.getuid()} has no home folder, so there is no data folder",
            hint="set AGENT_TELEMETRY_HOME to an absolute path",
        )
    if platform == "darwin":
        return account_home / "Library" / "Application Support" / APPLICATION
    return account_home / ".local" / "share" / APPLICATION


def worktree_of(path: Path) -> Path | None:
    """The git worktree that `path` lies in, if any; links are followed, `path` need not exist."""
    real = Path(os.path.realpath(path))
    for folder in (real, *real.parents):
        if os.path.lexists(folder / ".git"):
            return folder
    return None


def _home(
    environ: Mapping[str, str], given: Mapping[str, Any], sources: dict[str, str], account_home: Path | None
) -> Path:
    setting = SETTINGS[0]
    home: Path = _value(setting, environ, given, sources) or default_home(account_home)
    inside = worktree_of(home)
    if inside is not None:
        raise SettingsError(
            f"home: the data folder {home} (from {_origin(setting, sources[setting.name])})"
            f" is inside the git worktree {inside}",
            hint="set AGENT_TELEMETRY_HOME to a folder outside of any repository",
        )
    return home


def _value(
    setting: Setting,
    environ: Mapping[str, str],
    given: Mapping[str, Any],
    sources: dict[str, str],
    config: Mapping[str, Any] = MappingProxyType({}),
    home: Path | None = None,
) -> Any:
    raw: Any
    if setting.name in given:
        source, raw = "option", given[setting.name]
    elif environ.get(setting.variable):
        source, raw = "environment", environ[setting.variable]
    else:
        raw = config_file.value(config, setting.key) if setting.key else None
        source = "default" if raw is None else "config"
        if setting.name == "journal" and home is not None and raw is not None and "://" not in raw:
            raw = str(home / Path(raw).expanduser())
    sources[setting.name] = source
    if raw is None:
        return setting.default
    text = ("on" if raw else "off") if isinstance(raw, bool) else str(raw)
    try:
        return setting.parse(text)
    except ValueError as error:
        raise SettingsError(
            f"{setting.name}: {without_password(text)!r} (from {_origin(setting, source)}) {error}",
            hint=f"for example {_way_out(setting, source)}",
        ) from error


def _origin(setting: Setting, source: str) -> str:
    return {
        "option": _flag(setting),
        "environment": f"the variable {setting.variable}",
        "config": f"{CONFIG}, key {setting.key}",
        "default": "the default",
    }[source]


def _flag(setting: Setting) -> str:
    return "--endpoint" if setting.name == "otlp_endpoint" else f"--{setting.name.replace('_', '-')}"


def _way_out(setting: Setting, source: str) -> str:
    return {
        "option": f"{_flag(setting)} {setting.example}",
        "environment": f"{setting.variable}={setting.example}",
        "config": f'{setting.key} = "{setting.example}"',
    }[source]
