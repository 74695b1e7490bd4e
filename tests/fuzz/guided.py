"""Calls guided by coverage: python -m tests.fuzz.guided -max_total_time=300. Wants atheris, `pip install '.[fuzz]'`.

Bytes take the place of chance, and libFuzzer keeps those that reach new branches of pykernels' Python: its checks, its
shapes, its reference. What fails is written to a file crash-*, which is an argument to run it again.
"""

import random
import sys
import warnings

import atheris
import torch

with atheris.instrument_imports(include=["pykernels"]):
    from tests.fuzz.cases import FUNCTIONS, Maker, case_of
    from tests.fuzz.check import problem_of


class Bytes(random.Random):
    """Chance out of bytes; zeros when they are used up."""

    def __init__(self, content: bytes):
        super().__init__(0)
        self.content = content

    def getrandbits(self, k: int) -> int:
        size = (k + 7) // 8
        taken, self.content = self.content[:size].ljust(size, b"\0"), self.content[size:]
        return int.from_bytes(taken, "little") >> (8 * size - k)

    def random(self) -> float:
        return self.getrandbits(16) / (1 << 16)


def try_one(content: bytes) -> None:
    chance = Bytes(content)
    name = chance.choice(list(FUNCTIONS))
    one = case_of(name, Maker(chance, chance.getrandbits(8)))
    if problem := problem_of(one):
        raise AssertionError(f"{one.name}: {problem}; {one.tensors}, {one.options}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()
