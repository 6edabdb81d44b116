"""Secrets are removed: live values in any form, known shapes, values of secret options."""

from __future__ import annotations

import base64
import json
import os
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_shim.redaction import Redactor, live_secrets, redact_arguments

LIVE = 'p@ss "w\\rd/ü+1'


@pytest.mark.parametrize(
    "form",
    [
        LIVE,
        json.dumps(LIVE)[1:-1],
        quote(LIVE, safe=""),
        base64.b64encode(LIVE.encode()).decode(),
        base64.urlsafe_b64encode(LIVE.encode()).decode(),
    ],
)
def test_a_live_secret_is_removed_in_every_form(form: str) -> None:
    hidden = Redactor([LIVE])(f"before {form} after")
    assert form.rstrip("=") not in hidden
    assert hidden.startswith("before [redacted:live]")
    assert hidden.endswith(" after")


def test_a_live_secret_that_is_no_utf_8_is_removed_as_events_and_tails_show_it() -> None:
    secret = os.fsdecode(b"\xff\xfecanary-\xc3\xa9")
    hide = Redactor([secret])
    shown = (secret, "??canary-é", "\ufffd\ufffdcanary-é", "%FF%FEcanary-%C3%A9", "//5jYW5hcnktw6k")
    assert [hide(text) for text in shown] == ["[redacted:live]"] * len(shown)
    assert Redactor(["\ud800 is no byte either"])("\ud800 is no byte either") == "[redacted:live]"


@given(st.text(min_size=8, max_size=40).filter(lambda text: text not in "before [redacted:live] after"))
def test_no_live_secret_survives_in_a_line_of_json(secret: str) -> None:
    line = json.dumps({"text": f"before {secret} after"})
    assert json.dumps(secret)[1:-1] not in Redactor([secret])(line)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("sk-proj-abcdefghijklmnop0123456789", "openai"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ", "github"),
        ("AKIAIOSFODNN7EXAMPLE", "aws"),
        ("hf_abcdefghijklmnopqrstuvwx", "huggingface"),
        ("xoxb-123456789012-abcdef", "slack"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-DEF_123", "jwt"),
        ("glpat-abcdefghijklmnopqrst", "gitlab"),
    ],
)
def test_a_known_shape_is_removed(text: str, kind: str) -> None:
    assert Redactor()(f'{{"a":"x {text} y"}}') == f'{{"a":"x [redacted:{kind}] y"}}'


def test_what_stands_around_a_secret_stays() -> None:
    redact = Redactor()
    assert redact("Authorization: Bearer abcdef0123456789.x") == "Authorization: Bearer [redacted:bearer]"
    assert redact("https://user:pass@host/x") == "https://[redacted:url-credentials]@host/x"
    key = "-----BEGIN RSA PRIVATE KEY-----\\nMIIE\\nabc=\\n-----END RSA PRIVATE KEY-----"
    assert "MIIE" not in redact(json.dumps({"key": key.replace("\\n", "\n")}))


@pytest.mark.parametrize(
    "text", ["task-1234567890abcdef1234", "risk-assessment-of-the-change", "max_tokens", "https://host/a:b@c"]
)
def test_ordinary_text_stays(text: str) -> None:
    assert Redactor()(text) == text


def test_a_redacted_line_is_still_json() -> None:
    redact = Redactor([LIVE])
    line = json.dumps({"a": [LIVE, "sk-abcdefghijklmnopqrstuvwxyz", "postgres://u:p@h/d", '":"', LIVE * 3]})
    assert json.loads(redact(line))["a"][1] == "[redacted:openai]"


def test_live_secrets_are_values_of_variables_named_so() -> None:
    environ = {
        "OPENAI_API_KEY": "sk-0123456789",
        "AWS_SECRET_ACCESS_KEY": "abcdefgh12345",
        "GH_TOKEN": "tokentoken",
        "DB_PASSWORD": "short",
        "OPENAI_MAX_TOKENS": "1000000000",
        "SSH_KEY_FILE": "/home/user/.ssh/id_ed25519",
        "MONKEY": "businessbusiness",
        "PATH": "/usr/bin:/bin",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20headersecret,x-scope=public-scope",
        "AGENT_TELEMETRY_JOURNAL": "postgresql://me:pass%2Fword@db/journal",
    }
    assert live_secrets(environ) == [
        *("sk-0123456789", "abcdefgh12345", "tokentoken", "headersecret", "public-scope", "pass/word"),
    ]


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        (["--api-key", "abc"], ["--api-key", "[redacted:option]"]),
        (["--api-key=abc"], ["--api-key=[redacted:option]"]),
        (["--token", "-x"], ["--token", "-x"]),
        (["--max-tokens", "100"], ["--max-tokens", "100"]),
        (["run", "--file", "key.txt"], ["run", "--file", "key.txt"]),
        (["API_KEY=abc", "make"], ["API_KEY=[redacted:option]", "make"]),
    ],
)
def test_values_of_secret_options_are_removed(given_: list[str], kept: list[str]) -> None:
    assert redact_arguments(given_) == kept


@pytest.mark.parametrize("program", [["/v/bin/trae-cli"], ["python", "-m", "trae_agent.cli"]])
def test_the_key_that_trae_takes_as_a_short_option_is_removed(program: list[str]) -> None:
    kept = redact_arguments([*program, "run", "task", "-k", "plain", "-kplain", "-m", "gpt-5"])
    assert kept == [*program, "run", "task", "-k", "[redacted:option]", "-k[redacted:option]", "-m", "gpt-5"]
    assert redact_arguments(["pytest", "-k", "name"]) == ["pytest", "-k", "name"]
