"""Mistakes to make in the CUDA sources, each as replacements of text, and what each ought to be caught by.

The text is looked for in all CUDA sources of a room at once, whatever its line breaks, so that moving and formatting
code costs nothing; it has to be there exactly once, or the mutation means nothing any more.
"""

import re
from pathlib import Path
from typing import NamedTuple


class Mutation(NamedTuple):
    name: str
    replacements: tuple[tuple[str, str], ...]
    sanitizers: tuple[str, ...] = ()  # modes of tests/native/build.py to run besides the plain one
    room: str = "mixture"  # folder of csrc


def mutation(
    name: str,
    before: str,
    after: str,
    *more: tuple[str, str],
    also: tuple[str, ...] = (),
    room: str = "mixture",
) -> Mutation:
    return Mutation(name, ((before, after), *more), also, room)


RACE, ADDRESS = ("thread",), ("address",)

MUTATIONS = (
    mutation(
        "no barrier after a tile of components was read",
        "  __syncthreads();\n  return accurate;",
        "  return accurate;",
        also=RACE,
    ),
    mutation(
        "no barrier before the next tile of components overwrites this one",
        "add_tile<false, kMany, ways>(records, count, way, NoOffsets{}, own);\n    }\n    __syncthreads();",
        "add_tile<false, kMany, ways>(records, count, way, NoOffsets{}, own);\n    }\n",
        also=RACE,
    ),
    mutation(
        "no barrier before the next tile of rows overwrites this one",
        "add_rows<false, ways, 2>(records, count, way, NoOffsets{}, own);\n    }\n    __syncthreads();",
        "add_rows<false, ways, 2>(records, count, way, NoOffsets{}, own);\n    }\n",
        also=RACE,
    ),
    mutation(
        "no barrier before the next marginal tile overwrites this one",
        "NoOffsets{}, z, sum, slope);\n    }\n    __syncthreads();",
        "NoOffsets{}, z, sum, slope);\n    }\n",
        also=RACE,
    ),
    mutation(
        "waiting for one group of copies too few",
        "async_wait<0>();\n      }",
        "async_wait<1>();\n      }",
    ),
    mutation(
        "waiting for no copy of a chunk",
        "  async_wait<0>();\n  __syncthreads();\n  return count;",
        "  return count;",
    ),
    mutation(
        "no barrier before a stage of copies is overwritten",
        "      __syncthreads();  // before this stage is overwritten\n",
        "",
        also=RACE,
    ),
    mutation(
        "a barrier that some threads pass by",
        "      __syncthreads();  // before this stage is overwritten",
        "      if (thread < 250) __syncthreads();",
    ),
    mutation(
        "each thread decides by itself whether a tile is reached",
        "    // The first tile has to lay the ground, whatever its weights.\n"
        "    if (!__syncthreads_or(reached || tile == begin)) continue;",
        "    if (!(reached || tile == begin)) continue;",
    ),
    mutation(
        "weights of a tile overwritten before all warps have read them (forward)",
        "{out.part_slope + (part + row) * dims + d + own_d, dims, 1, rows.count - row, count - own_d});\n"
        "      __syncthreads();",
        "{out.part_slope + (part + row) * dims + d + own_d, dims, 1, rows.count - row, count - own_d});\n",
        also=RACE,
    ),
    mutation(
        "weights of a tile overwritten before all warps have read them (backward)",
        "add_to_memory<T>(second, tile == begin, nullptr, place);\n      __syncthreads();",
        "add_to_memory<T>(second, tile == begin, nullptr, place);\n",
        also=RACE,
    ),
    mutation(
        "weights of a tile overwritten before all warps have read them (statistics)",
        "{out + row * dims + d + own_d, dims, 1, rows.count - row, count - own_d});\n      __syncthreads();",
        "{out + row * dims + d + own_d, dims, 1, rows.count - row, count - own_d});\n",
        also=RACE,
    ),
    mutation(
        "all splits of the statistics' slopes write to the place of the first",
        "T* out = sums + (element * splits + split) * rows.count * dims;",
        "T* out = sums + element * splits * rows.count * dims;",
    ),
    mutation(
        "no barrier in the sum of a block",
        "      __syncthreads();\n      if (thread < half)",
        "      if (thread < half)",
        also=RACE,
    ),
    mutation(
        "a lane misses the shuffles of a row's sum",
        "    for (int step = 8; step > 0; step /= 2)\n      sum[r] = merge(",
        "    for (int step = 8; thread % 32 < 31 && step > 0; step /= 2)\n      sum[r] = merge(",
    ),
    mutation(
        "rows beyond the last are written",
        "    if (row >= problem.rows) continue;\n",
        "",
        also=ADDRESS,
    ),
    mutation(
        "shared memory for one row too few",
        "constexpr int records = kTile<T> * RowRecord<T, D>::kSize,",
        "constexpr int records = (kTile<T> - 1) * RowRecord<T, D>::kSize,",
        also=ADDRESS,
    ),
    mutation(
        "all splits write to the place of the first",
        "(local_element * splits + split) * problem.rows + row;",
        "local_element * splits * problem.rows + row;",
    ),
    mutation(
        "the merge forgets the last split",
        "const bool there = split + k * ways < splits;",
        "const bool there = split + k * ways < splits - 1;",
    ),
    mutation(
        "each way of a merge takes one split at most",
        "const bool there = split + k * ways < splits;",
        "const bool there = k == 0;",
    ),
    mutation(
        "the first way of a merge takes what the others have before they have it",
        "  slopes[thread] = own.slope;\n  __syncthreads();",
        "  slopes[thread] = own.slope;",
        also=RACE,
    ),
    mutation(
        "the merge of slopes forgets the last way",
        "at < ways * kMergeOutputs; at += kMergeOutputs)",
        "at < (ways - 1) * kMergeOutputs; at += kMergeOutputs)",
    ),
    mutation(
        "no barrier before the ways of a row are joined",
        "place[(2 + d) * kOthers] = own.slope[0][d];\n  }\n  __syncthreads();",
        "place[(2 + d) * kOthers] = own.slope[0][d];\n  }",
        also=RACE,
    ),
    mutation(
        "no barrier before the ways of a component are joined",
        "lay_down(own, records + way * kSumRows<T, D> * kFinishStride + lane);\n    __syncthreads();",
        "lay_down(own, records + way * kSumRows<T, D> * kFinishStride + lane);",
        also=RACE,
    ),
    mutation(
        "no barrier before the splits of the gradients are joined",
        "own[(plan.columns - 1) * kFinishStride] = mass;\n  }\n  __syncthreads();",
        "own[(plan.columns - 1) * kFinishStride] = mass;\n  }",
        also=RACE,
    ),
    mutation(
        "the splits of the gradients after each way's first are left out",
        "for (int split = way; split < sums.joint_splits; split += plan.ways) {",
        "for (int split = way; split < plan.ways && split < sums.joint_splits; split += plan.ways) {",
    ),
    mutation(
        "weights are read from where they would stand in plain order",
        "const T* weights = tiles.weights + weights_at<T>(first, across);\n    T z[",
        "const T* weights = tiles.weights + first * kS + across;\n    T z[",
    ),
    mutation(
        "the merge adds masses of different tops",
        "fma(a.mass, fast_exp2(a.top - top), b.mass",
        "fma(a.mass, static_cast<T>(1), b.mass",
    ),
    mutation(
        "slopes of earlier tiles are not scaled to the new top",
        "fma(factor ? factor[i] : 1, before[i][k], sum[i][k])",
        "fma(static_cast<T>(1), before[i][k], sum[i][k])",
    ),
    mutation(
        "the first tile adds to what stood in memory",
        "before[i][k] = !first_tile && i < place.members",
        "before[i][k] = i < place.members",
    ),
    mutation(
        "the wrong form of the few-dimensional loop",
        "accurate = load_records<T, D>(",
        "accurate = !load_records<T, D>(",
    ),
    mutation(
        "the multiplied-out form whatever the components",
        "static constexpr float kSafeProduct = 8;",
        "static constexpr float kSafeProduct = 1e9f;",
    ),
    mutation(
        "m instead of m s in the packed tiles",
        "accurate ? component.m : component.m * component.s;",
        "component.m;",
    ),
    mutation(
        "the last, shallower stage taken for a whole one",
        "const int count = dims - d < depth ? dims - d : depth;\n      const T* here",
        "const int count = depth;\n      const T* here",
    ),
    mutation(
        "the backward pass adds in another order than the forward pass",
        "T t[D], log2 = own.constant[k];",
        "T t[D], log2 = 0;",
        ("fast_exp2(log2 + record[", "fast_exp2(log2 + own.constant[k] + record["),
    ),
    mutation(
        "long sums are not made of shorter ones in one of the passes",
        "if (long_sums && ((d + depth) % kSummedDims == 0 || last_of_group)) move",
        "if (long_sums && last_of_group) move",
    ),
    mutation(
        "absent components are read",
        "  if (absent) return {1, 0};\n",
        "",
    ),
    mutation(
        "rows without density count",
        "  if (log2 == -static_cast<T>(INFINITY)) return {false,",
        "  if (false) return {false,",
    ),
    mutation(
        "weights of 0 are multiplied",
        "      if (slopes && weight != 0) {",
        "      if (slopes) {",
    ),
    mutation(
        "the last component of a tile is left out",
        "way; i < count; i += ways) add_components",
        "way; i < count - 1; i += ways) add_components",
    ),
    mutation(
        "the last group of tiles is left out",
        "groups_left = groups - first_group;",
        "groups_left = groups - first_group - 1;",
    ),
    mutation(
        "the sum over dimensions drops the last",
        "keeps_dims ? 1 : dims)",
        "keeps_dims ? 1 : dims - 1)",
    ),
    mutation(
        "later batch elements overwrite a shared gradient",
        "static_cast<T>(alone ? total : *target + total)",
        "static_cast<T>(total)",
    ),
    mutation(
        "later steps of the batch write to the first one's place",
        "(first_element + element) * rows.count + row, sum[r]",
        "element * rows.count + row, sum[r]",
    ),
    mutation(
        "weights that depend on the pair are looked for in too few tiles",
        "return (ahead <= rows && -ahead < components)",
        "return (ahead < rows && -ahead < components)",
    ),
    mutation(
        "the last row does not find the first component",
        " || ahead + static_cast<int>(problem.rows) <= rows;",
        ";",
    ),
    mutation(
        "the rows of a thread are taken for neighbours",
        "band.ahead + i - r * step;",
        "band.ahead + i - r;",
    ),
    mutation(
        "a square of pairs takes its rows for components where it looks for their weights",
        "add_offsets({problem, ahead + down - across}, square);",
        "add_offsets({problem, ahead + across - down}, square);",
    ),
    mutation(
        "a kernel on the default stream",
        "merge_bytes<T>(ways), stream, out,",
        "merge_bytes<T>(ways), nullptr, out,",
    ),
)


def cuda_sources(folder: Path) -> list[Path]:
    return sorted([*folder.glob("cuda_*.h"), *folder.glob("*.cu")])


def _pattern(text: str) -> re.Pattern:
    return re.compile(r"\s+".join(map(re.escape, text.split())))


def file_with(folder: Path, text: str) -> Path:
    """The only CUDA source of a room with this text."""
    found = [path for path in cuda_sources(folder) for _ in _pattern(text).findall(path.read_text())]
    if len(found) != 1:
        places = ", ".join(path.name for path in found) or "nowhere"
        raise LookupError(
            f"this text of a mutation has to be in the CUDA sources once, but is in {places}:\n{text}"
        )
    return found[0]


def apply(mutation: Mutation, csrc: Path) -> list[str]:
    """Makes the mistake in a copy of the sources; returns the names of the files."""
    changed = []
    for before, after in mutation.replacements:
        path = file_with(csrc / mutation.room, before)
        path.write_text(_pattern(before).sub(lambda _, after=after: after, path.read_text()))
        changed.append(path.name)
    return sorted(set(changed))
