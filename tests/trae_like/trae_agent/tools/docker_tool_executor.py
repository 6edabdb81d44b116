"""The executor of container mode: it runs the shell itself, past the host's. The container is this host."""

from __future__ import annotations

import subprocess

from trae_agent.tools.base import ToolCall, ToolExecutor, ToolResult


class DockerToolExecutor:
    def __init__(self, original_executor: ToolExecutor, docker_tools: list[str]) -> None:
        self._original_executor = original_executor
        self._docker_tools_set = set(docker_tools)

    async def sequential_tool_call(self, tool_calls: list[ToolCall]) -> list[ToolResult]:
        results = []
        for call in tool_calls:
            if call.name in self._docker_tools_set:
                results.append(self._execute_in_docker(call))
            else:
                results.extend(await self._original_executor.sequential_tool_call([call]))
        return results

    async def parallel_tool_call(self, tool_calls: list[ToolCall]) -> list[ToolResult]:
        return await self.sequential_tool_call(tool_calls)

    def _execute_in_docker(self, tool_call: ToolCall) -> ToolResult:
        words = ["/bin/bash", "-c", str(tool_call.arguments.get("command"))]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        return ToolResult(tool_call.call_id, tool_call.name, done.returncode == 0, output)

    async def close_tools(self) -> None:
        await self._original_executor.close_tools()
