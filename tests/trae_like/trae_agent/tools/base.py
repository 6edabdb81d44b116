"""Tools, and the executor that runs them on the host."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE, STDOUT, Process
from dataclasses import dataclass, field
from typing import Any

END = "--end-of-command--"


@dataclass
class ToolCall:
    name: str
    call_id: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str | None = None


@dataclass
class ToolResult:
    call_id: str
    name: str
    success: bool
    result: str | None = None
    error: str | None = None
    id: str | None = None


class TaskDoneTool:
    name = "task_done"
    parameters: tuple[str, ...] = ()


class BashTool:
    """One shell for the whole run, in a session of its own; parallel calls wait for each other."""

    name = "bash"
    parameters = ("command",)
    shell: Process | None = None

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def execute(self, command: str) -> tuple[int, str]:
        async with self._turn:
            return await self._execute(command)

    async def _execute(self, command: str) -> tuple[int, str]:
        if self.shell is None:
            self.shell = await asyncio.create_subprocess_exec(
                "/bin/bash", stdin=PIPE, stdout=PIPE, stderr=STDOUT, start_new_session=True
            )
        self.shell.stdin.write(f"(\n{command}\n)\necho {END} $?\n".encode())
        lines: list[str] = []
        while line := (await self.shell.stdout.readline()).decode(errors="replace"):
            if line.startswith(END):
                return int(line.split()[1]), "".join(lines)
            lines.append(line)
        return -1, "bash has exited and must be restarted"


class ToolExecutor:
    def __init__(self, tools: list[Any]) -> None:
        self._tools = {tool.name: tool for tool in tools}

    async def execute_tool_call(self, tool_call: ToolCall) -> ToolResult:
        try:
            code, output = await self._tools[tool_call.name].execute(**tool_call.arguments)
        except Exception as error:  # noqa: BLE001 — as the real one
            code, output = 1, f"Error executing tool: {error!r}"
        told = {"result": output} if code == 0 else {"error": output}
        return ToolResult(tool_call.call_id, tool_call.name, code == 0, id=tool_call.id, **told)

    async def parallel_tool_call(self, tool_calls: list[ToolCall]) -> list[ToolResult]:
        return await asyncio.gather(*map(self.execute_tool_call, tool_calls))

    async def sequential_tool_call(self, tool_calls: list[ToolCall]) -> list[ToolResult]:
        return [await self.execute_tool_call(call) for call in tool_calls]

    async def close_tools(self) -> None:
        shell = self._tools["bash"].shell
        if shell is not None and shell.returncode is None:
            shell.terminate()
            await shell.communicate()
