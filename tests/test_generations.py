"""The environments in which the hooks meet other generations of the openai client."""

from __future__ import annotations

import subprocess

import pytest

from tests.generations import GENERATIONS, interpreter


@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_environment_has_the_generation_that_it_is_called_by(generation: str) -> None:
    """Else every test that runs in it would prove something about another one."""
    program = "import openai; print(openai.__version__)"
    done = subprocess.run([interpreter(generation), "-I", "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == generation, done.stderr
