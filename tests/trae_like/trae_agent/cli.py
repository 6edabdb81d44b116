"""``python -m trae_agent.cli run …``: the options that pipelines pass."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from trae_agent.agent.trae_agent import TraeAgent, git_diff, summarise
from trae_agent.utils.llm_clients.llm_client import ModelConfig


def main() -> None:
    given = arguments()
    config, summariser = configured(given.config_file)
    docker = given.docker_container_id is not None
    limits = {"max_steps": given.max_steps, "must_patch": given.must_patch, "docker": docker}
    agent = TraeAgent(config, given.trajectory_file, **limits)
    task = given.file.read_text()
    os.chdir(given.working_dir)
    asyncio.run(agent.execute_task(task))
    agent.write_trajectory()
    given.patch_path.write_text(git_diff())
    if summariser:
        summarise(agent.trajectory["agent_steps"], summariser)


def arguments() -> Any:
    parser = argparse.ArgumentParser(prog="trae-cli")
    run = parser.add_subparsers(required=True).add_parser("run")
    absolute = {"type": lambda text: Path(text).absolute(), "default": Path(os.devnull)}
    for option in ("--file", "--working-dir", "--patch-path", "--trajectory-file", "--config-file"):
        run.add_argument(option, **absolute)
    run.add_argument("--max-steps", type=int, default=20)
    run.add_argument("--must-patch", action="store_true")
    run.add_argument("--docker-container-id")
    return parser.parse_args()


def configured(path: Path) -> tuple[ModelConfig, ModelConfig | None]:
    """The agent's model and that which summarises its steps, from a file of the real one's structure."""
    text = path.read_text()
    if not text:
        return ModelConfig(), None
    file = json.loads(text)
    agent = file["agents"]["trae_agent"]
    summariser = file.get("lakeview", agent)["model"] if agent["enable_lakeview"] else None
    return model_of(file, agent["model"]), model_of(file, summariser) if summariser else None


def model_of(file: dict[str, Any], name: str) -> ModelConfig:
    model = file["models"][name]
    known = {field.name for field in dataclasses.fields(ModelConfig)} & set(model)
    provider = file["model_providers"][model["model_provider"]]["provider"]
    return ModelConfig(**{name: model[name] for name in known}, provider=provider)


if __name__ == "__main__":
    main()
