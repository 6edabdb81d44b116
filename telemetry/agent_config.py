"""Where an agent takes its configuration from: command line over environment over file.

Promises, each with its test in ``tests/test_agent_config.py``:

* No secret is in it: of a key it says that it is set, of an address it leaves out the login, and of the
  file it has the hash.
* A file that is not there or cannot be read is said, and is no error.

The options, variables and file are those of TRAE (``trae_agent/cli.py``, ``trae_agent/utils/config.py``);
of other agents nothing is known here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent_shim.events import ConfigurationRead
from telemetry.command import option_value
from telemetry.declared import FILE_VARIABLE, config_file
from telemetry.identity import without_credentials

_OPTIONS = ("--provider", "--model", "--model-base-url", "--max-steps", "--agent-type", "--config-file")
_ADDRESS = re.compile(r"[A-Z]+_BASE_URL")
_KEY = re.compile(r"[A-Z]+_API_KEY")
LIMIT_BYTES = 4 * 1024 * 1024


def configuration(
    agent: str | None, command: Sequence[str], cwd: str, environ: Mapping[str, str]
) -> ConfigurationRead | None:
    """What is known before the agent starts; ``None`` for an agent whose ways are not known."""
    if agent != "trae":
        return None
    given = {option: option_value(command, option) for option in _OPTIONS}
    named = {name: _shown(name, value) for name, value in sorted(environ.items()) if _is_read(name)}
    file = config_file(command, cwd, environ)
    told = ConfigurationRead(
        agent=agent,
        options={option: without_credentials(value) for option, value in given.items() if value} or None,
        environment=named or None,
        file=file,
    )
    try:
        with Path(cwd, file).open("rb") as opened:
            content = opened.read(LIMIT_BYTES + 1)
    except (OSError, ValueError) as error:
        return told._replace(file_reason=getattr(error, "strerror", None) or str(error))
    if len(content) > LIMIT_BYTES:
        return told._replace(file_reason=f"longer than {LIMIT_BYTES} bytes")
    return told._replace(file_bytes=len(content), file_sha256=hashlib.sha256(content).hexdigest())


def _is_read(name: str) -> bool:
    return bool(name == FILE_VARIABLE or _ADDRESS.fullmatch(name) or _KEY.fullmatch(name))


def _shown(name: str, value: str) -> str:
    return "set" if _KEY.fullmatch(name) else without_credentials(value)
