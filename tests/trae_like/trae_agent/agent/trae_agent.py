"""The loop: a step is one turn of the model and the execution of the tool calls it asked for."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from trae_agent.tools.base import BashTool, TaskDoneTool, ToolCall, ToolExecutor
from trae_agent.tools.docker_tool_executor import DockerToolExecutor
from trae_agent.utils.llm_clients.llm_client import LLMClient, LLMMessage, ModelConfig


class TraeAgent:
    def __init__(
        self, config: ModelConfig, trajectory_file: Path, *, max_steps: int, must_patch: bool, docker: bool
    ) -> None:
        self._llm_client = LLMClient(config)
        self._model_config = config
        self._max_steps = max_steps
        self._must_patch = must_patch
        self._tools = [BashTool(), TaskDoneTool()]
        executor = ToolExecutor(self._tools)
        self._tool_caller = DockerToolExecutor(executor, ["bash"]) if docker else executor
        self._trajectory_file = trajectory_file
        self.trajectory: dict[str, Any] = {
            "max_steps": max_steps, "success": False, "final_result": None, "agent_steps": []
        }  # fmt: skip

    async def execute_task(self, task: str) -> None:
        """The agent's own failures end the loop, and are not raised."""
        messages = [LLMMessage("system", "You are an expert."), LLMMessage("user", task)]
        while messages and len(self.trajectory["agent_steps"]) < self._max_steps:
            step: dict[str, Any] = {"state": "completed", "error": None}
            self.trajectory["agent_steps"].append(step)
            self.write_trajectory()
            try:
                messages = await self._run_llm_step(step, messages)
            except Exception as error:  # noqa: BLE001 — as the real one
                step["error"] = self.trajectory["final_result"] = str(error)
                break
            show(step["llm_response"]["content"])
        else:
            if messages:
                said = "Task execution exceeded maximum steps without completion."
                self.trajectory["final_result"] = said
        await self._tool_caller.close_tools()

    def write_trajectory(self) -> None:
        """The file as a whole, and not atomically."""
        self._trajectory_file.write_text(json.dumps(self.trajectory))

    async def _run_llm_step(self, step: dict[str, Any], messages: list[LLMMessage]) -> list[LLMMessage]:
        response = self._llm_client.chat(messages, self._model_config, self._tools)
        calls = response.tool_calls or []
        step["llm_response"] = dataclasses.asdict(response)
        if not calls:
            return [LLMMessage("user", "It seems that you have not completed the task.")]
        if all(call.name != "task_done" for call in calls):
            return await self._tool_call_handler(calls)
        if self._must_patch and not git_diff().strip():
            return [LLMMessage("user", "ERROR! Your Patch is empty.")]
        self.trajectory["success"] = True
        return []

    async def _tool_call_handler(self, calls: list[ToolCall]) -> list[LLMMessage]:
        at_once = self._model_config.parallel_tool_calls
        run = self._tool_caller.parallel_tool_call if at_once else self._tool_caller.sequential_tool_call
        return [LLMMessage("user", tool_result=result) for result in await run(calls)]


def show(text: str) -> None:
    """On a terminal that takes ``[/TAG]`` for its own markup."""
    closing = re.search(r"\[/(\w+)\]", text)
    if closing:
        raise MarkupError(
            f"closing tag '{closing[0]}' at position {closing.start()} doesn't match any open tag"
        )
    sys.stdout.write(text)


class MarkupError(Exception):
    """As of rich."""


def git_diff() -> str:
    """What is not committed: a change that the agent committed is not in it."""
    return subprocess.run(["git", "diff"], capture_output=True, text=True, check=False).stdout


def summarise(steps: list[Any], config: ModelConfig) -> None:
    """A call per step, without tools and in no trajectory; IndexError when an answer has no tags."""
    client = LLMClient(config)
    for step in steps:
        asked = [
            LLMMessage("user", f"Label this step: {step}"),
            LLMMessage("assistant", "Its tags are <tags>"),
        ]
        answer = client.chat(asked, config, None, False).content
        step["tags"] = re.findall("<tags>(.*)</tags>", f"<tags>{answer}")[0]
