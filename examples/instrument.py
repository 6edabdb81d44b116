"""Record the calls of your own program: no wrapper, no change at the calls themselves.

``OPENAI_API_KEY=… python examples/instrument.py "a question"``, then ``agent-telemetry show @last``.
"""

from __future__ import annotations

import sys

import openai

import agent_shim


def main(question: str) -> None:
    client = openai.OpenAI()
    with agent_shim.run(commit="1a2b3c4d", task="explain", tags={"kind": "example"}) as run:
        # Everything that the openai client does in here is recorded: streams, retries, failures.
        response = client.responses.create(model="gpt-5", input=question)
        print(response.output_text)
    print(f"recorded as run {run.run_id}", file=sys.stderr)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "What does git bisect do?")
