"""The Python of README and docs runs as printed, each page from top to end, and README's commands can be copied."""

import importlib.util
import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# A comment <!--python ... --> is what snippets take for granted, and a page does not show.
SNIPPET = re.compile(r"(?:```|<!--)python( needs=(\w+))?\n(.*?)(?:```|-->)", re.DOTALL)
COMMANDS = re.findall(r"```\n(.*?)\n```", PAGES[0].read_text(), re.DOTALL)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if SNIPPET.search(page.read_text())], ids=lambda page: page.name
)
def test_snippets_run(page, monkeypatch):
    monkeypatch.chdir(ROOT)  # and back
    names = {}
    missing = []
    for _, module, snippet in SNIPPET.findall(page.read_text()):
        if module and importlib.util.find_spec(module) is None:
            missing.append(module)
        else:
            with warnings.catch_warnings():
                if module:
                    warnings.simplefilter("ignore")  # its own, of other libraries
                exec(compile(snippet, page.name, "exec"), names)
    if missing:
        pytest.skip(f"all but what needs {', '.join(missing)} ran")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_two_commands_of_one_line_each():
    assert len(COMMANDS) == 2
    assert all(command.startswith("pip install") and "\n" not in command for command in COMMANDS)
