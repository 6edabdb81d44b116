"""The loop between the model and the tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import openai
from openai.types.responses import Response, ResponseFunctionToolCall

import agent_shim
from agent import tools

INSTRUCTIONS = "You work on the repository in the current folder. Use the tools. Say what you did when done."
BROKEN_STREAMS = 2
"""How often in a row a stream may break before the agent gives up; the client does not retry those."""


class Conversation:
    """One task, from its text to the model's last word."""

    def __init__(self, client: openai.OpenAI, model: str, folder: Path) -> None:
        self._client = client
        self._model = model
        self._folder = folder
        self._history: list[Any] = []

    def work(self, task: str, max_steps: int) -> str | None:
        """The model's last word, or ``None`` when it needs more steps. Raises `openai.APIError`."""
        self._history = [{"role": "user", "content": task}]
        for _ in range(max_steps):
            response = self._ask()
            calls = [item for item in response.output if isinstance(item, ResponseFunctionToolCall)]
            if not calls:
                return response.output_text
            self._history += [*response.output, *map(self._answer, calls)]
        return None

    def _ask(self) -> Response:
        for _ in range(BROKEN_STREAMS):
            try:
                return self._stream()
            except openai.APIConnectionError as error:
                print(f"asking again: {error}", file=sys.stderr)
        return self._stream()

    def _stream(self) -> Response:
        with self._client.responses.stream(
            model=self._model, input=self._history, instructions=INSTRUCTIONS, tools=tools.SCHEMAS
        ) as stream:
            return stream.until_done().get_final_response()

    def _answer(self, call: ResponseFunctionToolCall) -> dict[str, str]:
        """What the tool said; its failure is for the model to read."""
        print(f"[{call.name}]", file=sys.stderr)
        # The one line that an agent of one's own adds, to have its tools in the record; outside a recorded
        # run it does nothing.
        with agent_shim.tool_call(call.name, call_id=call.call_id, arguments=call.arguments) as tool:
            output, failure = tools.execute(call.name, call.arguments, self._folder)
            tool.returned(output)
            if failure:
                tool.failed(failure)
        return {"type": "function_call_output", "call_id": call.call_id, "output": output}
