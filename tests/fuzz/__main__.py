"""Random calls for some minutes: python -m tests.fuzz --minutes 5 [--first 0] [--variant avx2] [--threads 2]"""

import argparse
import faulthandler
import time
from collections import Counter

import torch

from pykernels import _launch
from tests.fuzz.check import problem_with


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--variant", choices=_launch.variants(), default=_launch.current_variant())
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    faulthandler.enable()
    torch.set_num_threads(options.threads)
    tried: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    end, number = time.monotonic() + 60 * options.minutes, options.first
    with _launch.use_variant(options.variant):
        while time.monotonic() < end:
            try:
                name, problem = problem_with(number)
            except Exception as error:
                name, problem = "raised", f"{type(error).__name__}: {str(error)[:300]}"
            tried[name] += 1
            if problem:
                bad[name] += 1
                if bad[name] <= 5:
                    print(f"case {number}, {name}: {problem}", flush=True)
            number += 1
    print(
        f"{sum(tried.values())} calls on {options.variant}, {sum(bad.values())} with a problem; next --first {number}"
    )
    for name, count in sorted(tried.items()):
        print(f"{name:45} {count:8} {bad[name]:6}")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
