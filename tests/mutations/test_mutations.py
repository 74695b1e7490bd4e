"""The mutations still fit the sources. Whether each is caught takes minutes to find out: run_mutations.py."""

from pathlib import Path

import pytest

from tests.mutations.mmd_mutations import MMD_MUTATIONS
from tests.mutations.mutations import MUTATIONS, file_with
from tests.native.build import CSRC

ALL = (*MUTATIONS, *MMD_MUTATIONS)
README = Path(__file__).with_name("README.md")


@pytest.mark.parametrize("mutation", ALL, ids=lambda mutation: mutation.name.replace(" ", "_"))
def test_the_text_is_in_the_sources_once(mutation):
    for before, after in mutation.replacements:
        assert file_with(CSRC / mutation.room, before) and before != after


def test_every_mutation_was_run_and_caught():
    rows = [line.split("|")[1:-1] for line in README.read_text().splitlines() if line.startswith("| ")][1:]
    assert [name.strip() for name, *_ in rows] == [mutation.name for mutation in ALL]
    assert not [name for name, _, *seen in rows if not any(map(_caught, seen))]


def _caught(cell: str) -> bool:
    return cell.strip() not in ("", "not seen")
