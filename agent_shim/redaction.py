"""Secrets are removed before anything is written: live values by exact match, others by shape.

Two nets. A *live* secret is a value this process knows: every environment variable whose name says
so, and the key of each client that is used; it is found in any text, also JSON-escaped,
percent-encoded or in base64. A *shape* is the look of a known kind of token. Both are searched in the
finished line of the spool, so that no path past them exists; searching is cheap because a text without
any of the tell-tale prefixes is gone through once.

What is replaced says so: ``[redacted:live]``, ``[redacted:openai]``, …
"""

from __future__ import annotations

import base64
import json
import re
from typing import Iterable, Mapping
from urllib.parse import quote, unquote

MIN_LIVE_LENGTH = 8
"""Shorter values are words, not secrets: removing them would eat ordinary text."""

SECRET_NAME = re.compile(
    r"(?i)(^|[_-])(keys?|token|secrets?|passwords?|passwd|pwd|credentials?)($|[_-])"
    r"|apikey|accesskey|secretkey|authtoken"
)
"""Names of variables and options whose value is a secret (``max_tokens`` is a number, not one)."""

# (tell-tale prefix, pattern, kind). No pattern may match a quote or a backslash other than `\\n`:
# the text searched is a line of JSON and must stay one.
_SHAPES = [
    ("sk-", r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{16,}", "openai"),
    ("sess-", r"(?<![A-Za-z0-9])sess-[A-Za-z0-9]{24,}", "openai"),
    ("ghp_", r"(?<![A-Za-z0-9])ghp_[A-Za-z0-9]{20,}", "github"),
    ("gho_", r"(?<![A-Za-z0-9])gho_[A-Za-z0-9]{20,}", "github"),
    ("ghs_", r"(?<![A-Za-z0-9])ghs_[A-Za-z0-9]{20,}", "github"),
    ("github_pat_", r"github_pat_[A-Za-z0-9_]{20,}", "github"),
    ("glpat-", r"glpat-[A-Za-z0-9_-]{16,}", "gitlab"),
    ("hf_", r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{20,}", "huggingface"),
    ("AKIA", r"(?<![A-Za-z0-9])AKIA[0-9A-Z]{16}", "aws"),
    ("ASIA", r"(?<![A-Za-z0-9])ASIA[0-9A-Z]{16}", "aws"),
    ("AIza", r"AIza[0-9A-Za-z_-]{30,}", "google"),
    ("xox", r"xox[abeoprs]-[A-Za-z0-9-]{10,}", "slack"),
    ("npm_", r"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{30,}", "npm"),
    ("pypi-", r"pypi-[A-Za-z0-9_-]{30,}", "pypi"),
    ("eyJ", r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", "jwt"),
    ("earer ", r"(?<=earer )[A-Za-z0-9._~+/=-]{8,}", "bearer"),
    ("earer%20", r"(?<=earer%20)[A-Za-z0-9._~+/=-]{8,}", "bearer"),
    ("asic ", r"(?<=asic )[A-Za-z0-9+/=]{12,}", "basic"),
    ("://", r"(?<=://)[^/\s:@\"\\]+:[^/\s@\"\\]+(?=@)", "url-credentials"),
    (
        "PRIVATE KEY",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[A-Za-z0-9+/=\s:,-]|\\[nr])*",
        "private-key",
    ),
]
_COMPILED = [(prefix, re.compile(pattern), f"[redacted:{kind}]") for prefix, pattern, kind in _SHAPES]

_RARE = "-_/%KIx J"
"""Characters that a line of JSON has few of; each tell-tale has one."""


def _from_rare(prefix: str) -> str:
    """A pattern that finds `prefix` from its rarest character on, so that a search stops at few places."""
    at = min((prefix.index(rare) for rare in _RARE if rare in prefix), default=0)
    return f"{prefix[at]}(?<={prefix[: at + 1]}){prefix[at + 1 :]}"


_TELL_TALE = re.compile("|".join(_from_rare(prefix) for prefix, _, _ in _SHAPES))


_HEADERS = re.compile(r"OTEL_EXPORTER_OTLP_(?:[A-Z]+_)?HEADERS")
_URL_PASSWORD = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")


def live_secrets(environ: Mapping[str, str]) -> list[str]:
    """The secrets of an environment.

    Values of variables whose names say so, the values in OTLP headers, and passwords in URLs.
    """
    found: list[str] = []
    for name, value in environ.items():
        if SECRET_NAME.search(name) and not value.startswith("/"):
            found.append(value)
        if _HEADERS.fullmatch(name):
            headers = [header.partition("=")[2] for header in value.split(",")]
            found += [word for header in headers for word in unquote(header).split()]
        found += [unquote(password) for password in _URL_PASSWORD.findall(value)]
    return [secret for secret in found if len(secret) >= MIN_LIVE_LENGTH]


_TRAE = frozenset(("trae_agent.cli", "trae-cli"))
"""To these ``-k`` gives the API key (``trae_agent/cli.py``); to others it is no secret."""


def redact_arguments(arguments: Iterable[str]) -> list[str]:
    """A command line with the values of secret options removed (``--api-key X``, ``--token=X``)."""
    out: list[str] = []
    hide_next = False
    words = list(arguments)
    short = not _TRAE.isdisjoint(word.rpartition("/")[2] for word in words)
    for argument in words:
        if hide_next and not argument.startswith("-"):
            out.append("[redacted:option]")
            hide_next = False
            continue
        hide_next = short and argument == "-k"
        if short and argument.startswith("-k") and not hide_next:
            out.append("-k[redacted:option]")
            continue
        name, equals, _ = argument.partition("=")
        if SECRET_NAME.search(name.lstrip("-")) and len(name) <= 64:
            if equals:
                out.append(f"{name}=[redacted:option]")
                continue
            hide_next = argument.startswith("-")
        out.append(argument)
    return out


class Redactor:
    """Removes secrets from text. Safe to call from any thread; `add` may be called at any time."""

    __slots__ = ("_forms", "_known")

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: set[str] = set()
        self._forms: tuple[str, ...] = ()
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        """From now on remove this value, and the forms in which it may appear inside other text."""
        if secret in self._known or len(secret) < MIN_LIVE_LENGTH:
            return
        raw = _bytes_of(secret)
        # What is no UTF-8 stands in events as question marks, in output as U+FFFD.
        looks = {secret, secret.encode("utf-8", "replace").decode(), raw.decode("utf-8", "replace")}
        forms = {*looks, *(json.dumps(look)[1:-1] for look in looks), quote(raw, safe="")}
        forms.update(
            encoder(raw).decode().rstrip("=") for encoder in (base64.b64encode, base64.urlsafe_b64encode)
        )
        self._known.add(secret)
        # Longest first: a form that contains another must go as a whole.
        self._forms = tuple(sorted({*self._forms, *forms}, key=len, reverse=True))

    def __call__(self, text: str) -> str:
        """`text` without secrets."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, "[redacted:live]")
        if _TELL_TALE.search(text):
            for prefix, pattern, label in _COMPILED:
                if prefix in text:
                    text = pattern.sub(label, text)
        return text


def _bytes_of(secret: str) -> bytes:
    """As the system holds it, where Python got it from there."""
    try:
        return secret.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return secret.encode("utf-8", "replace")
