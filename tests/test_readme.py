"""The README's Python runs as printed, and its two commands are there to be copied."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"```\n(.*?)\n```", TEXT, re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_run(snippet):
    exec(compile(snippet, "README.md", "exec"), {})


def test_two_commands_of_one_line_each():
    assert len(COMMANDS) == 2
    assert all(command.startswith("pip install") and "\n" not in command for command in COMMANDS)
