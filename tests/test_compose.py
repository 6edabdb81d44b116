"""``docker-compose.yml`` as it is, started for real: all healthy, a run in Jaeger, its cost from PostgreSQL.

The images are those of ``tests/images.py`` (`make images`), or the official ones where they are there. Where
no engine can be started the tests skip and say why; with ``COMPOSE_TEST=1``, which ``.ci/run`` sets once it
has made the images, they fail instead.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from collector_config import build
from collector_config.stack import free_ports
from telemetry.testing import ScriptedServer, ToolCall, Usage, calls, invalid_key
from tests import images
from tests.generations import ROOT
from tests.traced import COMMIT, Agent, Jaeger
from tests.wrapped import eventually

pytestmark = pytest.mark.timeout(400)

PUBLISHED = ("OTLP_GRPC_PORT", "OTLP_HTTP_PORT", "JAEGER_PORT", "POSTGRES_PORT")
DEMANDED = os.environ.get("COMPOSE_TEST") == "1"
SERVICES = {"collector-health", "jaeger", "otel-collector", "postgres", "sink", "volumes"}


class Compose:
    """The project, under a name and on ports of its own."""

    def __init__(self, folder: Path, plugin: Path) -> None:
        plugins = folder / "docker" / "cli-plugins"
        plugins.mkdir(parents=True)
        shutil.copy(plugin, plugins / "docker-compose")
        self.ports = dict(zip(PUBLISHED, map(str, free_ports(len(PUBLISHED))), strict=True))
        self._environ = {
            **os.environ,
            **self.ports,
            "DOCKER_CONFIG": str(folder / "docker"),
            "SECRETS": str(folder / "secrets"),
        }
        secrets = ["sh", ROOT / "collector_config" / "secrets.sh", folder / "secrets"]
        made = subprocess.run(secrets, env=self._environ, capture_output=True, text=True, check=True)
        self.journal = made.stdout.strip()

    def __call__(self, *words: str) -> str:
        """What ``docker compose`` prints; its failure is the test's, with what the services said."""
        done = self._run(*words)
        if done.returncode:
            said = self._run("logs", "--tail", "20").stdout
            pytest.fail(f"docker compose {words[0]}: {done.stderr[-2000:]}\n{said}")
        return done.stdout

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["docker", "compose", "--project-name", f"agent-telemetry-test-{os.getpid()}", *words]
        return subprocess.run(command, cwd=ROOT, env=self._environ, capture_output=True, text=True)

    def inspected(self) -> dict[str, Any]:
        """Service → what the engine says of its container."""
        ids = self("ps", "--all", "--quiet").split()
        found = json.loads(
            subprocess.run(["docker", "inspect", *ids], capture_output=True, check=True).stdout
        )
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in found}


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The whole project, brought up with nothing there before, and taken down with its volumes."""
    with ExitStack() as stack:
        try:
            stack.enter_context(images.engine())
        except images.NoEngine as error:
            _not_here(str(error))
        plugin, lacking = build.built("compose"), images.missing()
        if plugin is None or lacking:
            _not_here(f"run `make images`: {', '.join(lacking) or 'the Compose plugin'} is missing")
        project = Compose(tmp_path_factory.mktemp("compose"), plugin)
        stack.callback(project, "down", "--volumes", "--timeout", "10")
        project("build")
        project("up", "--detach", "--wait", "--wait-timeout", "180", "--pull", "never")
        yield project


def _not_here(reason: str) -> Any:
    (pytest.fail if DEMANDED else pytest.skip)(f"docker-compose.yml is not tried: {reason}")


def test_everything_is_up_and_healthy(compose: Compose) -> None:
    """The image of the collector has no shell to ask for its health, so its sidecar has it."""
    containers = compose.inspected()
    assert set(containers) == SERVICES
    healthy = {
        name
        for name, each in containers.items()
        if each["State"].get("Health", {}).get("Status") == "healthy"
    }
    assert healthy == SERVICES - {"otel-collector", "volumes"}
    assert containers["otel-collector"]["State"]["Running"]
    assert containers["volumes"]["State"]["ExitCode"] == 0


def test_nothing_is_published_beyond_the_loopback(compose: Compose) -> None:
    published = [
        bound
        for each in compose.inspected().values()
        for bindings in each["NetworkSettings"]["Ports"].values()
        for bound in bindings or []
    ]
    assert {bound["HostPort"] for bound in published} == set(compose.ports.values())
    assert {bound["HostIp"] for bound in published} == {"127.0.0.1"}


def test_each_service_can_do_little_and_use_little(compose: Compose) -> None:
    for name, each in compose.inspected().items():
        host = each["HostConfig"]
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert name == "volumes" or host["Memory"] > 0, name


def test_each_service_comes_back_by_itself_and_is_given_the_time_that_it_needs_to_stop(
    compose: Compose,
) -> None:
    """The sink answers what it has taken for 10 s; the others write what they hold."""
    services = {name: each for name, each in compose.inspected().items() if name != "volumes"}
    for name, each in services.items():
        host = each["HostConfig"]
        assert host["RestartPolicy"]["Name"] == "unless-stopped", name
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}, (
            name
        )
    given = {name: each["Config"].get("StopTimeout") for name, each in services.items()}
    del given["collector-health"]  # has nothing to finish
    assert given == {"postgres": 60, "sink": 20, "jaeger": 30, "otel-collector": 60}


def test_collector_and_jaeger_are_no_root_and_own_their_volumes(compose: Compose) -> None:
    """Both would refuse to start where they could not write; the sink's image has a user of its own."""
    services = compose.inspected()
    for name, place in (("otel-collector", "/var/lib/otelcol"), ("jaeger", "/var/lib/jaeger")):
        assert services[name]["Config"]["User"] == "10001:10001"
        mounts = {mount["Destination"]: mount["Type"] for mount in services[name]["Mounts"]}
        assert mounts[place] == "volume"
    assert services["sink"]["Config"]["User"] not in ("", "0", "root")


def test_no_secret_is_in_what_the_engine_shows(compose: Compose) -> None:
    folder = Path(compose.journal.partition("passfile=")[2]).parent
    secrets = [(folder / name).read_text() for name in ("postgres_password", "sink_token")]
    shown = json.dumps(compose.inspected())
    assert not [secret for secret in secrets if secret in shown or secret in compose.journal]


def test_a_run_is_in_jaeger_and_its_cost_is_read_from_postgresql(
    compose: Compose, server: ScriptedServer, tmp_path: Path
) -> None:
    """The run itself wrote another journal: what PostgreSQL has came through collector and sink."""
    agent = Agent(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{compose.ports['OTLP_HTTP_PORT']}")
    used = Usage(input=1200, output=80)
    recorded = agent.run(server, calls(ToolCall("run", {"command": "true"}), usage=used), invalid_key())
    jaeger = Jaeger(f"http://127.0.0.1:{compose.ports['JAEGER_PORT']}")
    root = eventually(lambda: jaeger.root(recorded.run), 60.0)
    assert root.operation == "invoke_agent"
    (line,) = eventually(lambda: cost(agent, compose.journal), 60.0)
    assert line["commit"] == COMMIT
    assert (line["uncached_tokens"], line["output_tokens"], line["runs_not_complete"]) == ("1200", "80", "0")


def cost(agent: Agent, journal: str) -> list[dict[str, str]]:
    """The lines of ``cost --by commit``, once the journal has all of the run."""
    names, *lines = (
        line.split("\t") for line in agent.ask("cost", "--by", "commit", "--journal", journal).splitlines()
    )
    found = [dict(zip(names, line, strict=True)) for line in lines]
    return found if found and found[0]["runs_not_complete"] == "0" else []


def test_traces_and_events_outlive_a_restart(
    compose: Compose, server: ScriptedServer, tmp_path: Path
) -> None:
    """Jaeger, sink and PostgreSQL away while a run is recorded, then the collector killed, then all back."""
    agent = Agent(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{compose.ports['OTLP_HTTP_PORT']}")
    compose("stop", "--timeout", "20", "sink", "postgres", "jaeger")
    recorded = agent.run(server, invalid_key())
    eventually(lambda: agent.is_delivered(recorded.run), 60.0)
    compose("kill", "otel-collector")
    compose("up", "--detach", "--wait", "--wait-timeout", "180", "--pull", "never")
    jaeger = Jaeger(f"http://127.0.0.1:{compose.ports['JAEGER_PORT']}")
    eventually(lambda: jaeger.root(recorded.run), 60.0)
    shown = eventually(
        lambda: recorded.run in agent.ask("runs", "--json", "--journal", compose.journal), 60.0
    )
    assert shown


def test_the_sink_gets_what_the_tests_ran_with() -> None:
    """Its lock is a part of the one that the tests are installed from."""
    tested, installed = (
        {
            line.split(" ")[0]
            for line in (ROOT / "requirements" / name).read_text().splitlines()
            if "==" in line
        }
        for name in ("development.txt", "sink.txt")
    )
    assert installed < tested
    assert {"psycopg", "starlette", "sqlalchemy"} <= {pin.partition("==")[0] for pin in installed}
