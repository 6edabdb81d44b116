"""``python -m agent TASK.txt --model gpt-5``: works on the current folder, prints the last word."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import openai

from agent.conversation import Conversation


def main() -> int:
    parser = argparse.ArgumentParser(prog="agent", description="Let a model work on the current folder.")
    parser.add_argument("task", type=Path, help="file that says what to do")
    parser.add_argument("--model", default="gpt-5")
    parser.add_argument("--max-steps", type=int, default=20)
    options = parser.parse_args()
    conversation = Conversation(openai.OpenAI(), options.model, Path.cwd())
    try:
        answer = conversation.work(options.task.read_text(), options.max_steps)
    except openai.APIError as error:
        print(f"the model could not be asked: {error}", file=sys.stderr)
        return 1
    if answer is None:
        print(f"not done after {options.max_steps} steps", file=sys.stderr)
        return 2
    print(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
