"""Makes `benchmarks` importable. The root is last, so that the installed pykernels and vae come before its folders."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
