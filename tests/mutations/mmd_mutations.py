"""Mistakes to make in the CUDA sources of the MMD: see mutations.py."""

from functools import partial

from tests.mutations.mutations import ADDRESS, RACE, mutation

mmd = partial(mutation, room="mmd")

MMD_MUTATIONS = (
    mmd(
        "no barrier before the moments of a block are merged",
        "static_cast<int>((to - from + groups - 1) / groups), grid_of<T>(columns[d], plan.width), "
        "sums + thread * stride); } __syncthreads();",
        "static_cast<int>((to - from + groups - 1) / groups), grid_of<T>(columns[d], plan.width), "
        "sums + thread * stride); }",
        also=RACE,
    ),
    mmd(
        "sums of moments set to 0 before they were merged",
        "*out + static_cast<double>(total); } __syncthreads();",
        "*out + static_cast<double>(total); }",
        also=RACE,
    ),
    mmd(
        "only the first group's moments are merged",
        "for (int g = 0; g < groups; ++g) total",
        "for (int g = 0; g < 1; ++g) total",
    ),
    mmd(
        "later rows of a split take the place of earlier ones",
        "*out = row == begin ? static_cast<double>(total) : *out + static_cast<double>(total);",
        "*out = static_cast<double>(total);",
    ),
    mmd(
        "dimensions that find no room in shared memory have no turn",
        "for (int first = 0; first < dims; first += together)",
        "for (int first = 0; first < together; first += together)",
    ),
    mmd(
        "room for one thread's moments too many",
        "const int owners = room < kMomentThreads ? room : kMomentThreads;",
        "const int owners = room < kMomentThreads ? room + 1 : kMomentThreads;",
        also=ADDRESS,
    ),
    mmd(
        "only the first split of the moments is read",
        "int last = split + plan.splits[sample]; split < last; ++split)",
        "int last = split + plan.splits[sample]; split < last; split += plan.splits[sample])",
    ),
    mmd(
        "columns that reach too far have panels all the same",
        "last - first < most_panels)) return {0, kPairs};",
        "last - first < 1000000)) return {0, kPairs};",
        also=ADDRESS,
    ),
    mmd(
        "a NaN is no range",
        "return a < b || a != a ? a : b;",
        "return a < b ? a : b;",
        ("return a > b || a != a ? a : b;", "return a > b ? a : b;"),
    ),
    mmd(
        "each warp lists its columns from the same place on",
        "if (other < warp) place += counts[other];",
        "",
    ),
    mmd(
        "no barrier before the next columns are counted",
        "if (in_pairs) out.pairs[place] = index; __syncthreads();",
        "if (in_pairs) out.pairs[place] = index;",
        also=RACE,
    ),
    mmd(
        "the kernel between nodes is mirrored",
        "(rule.root[target] - rule.root[source])",
        "(rule.root[source] - rule.root[target])",
    ),
    mmd(
        "nodes are read before they are in shared memory",
        "all[i] = nodes[i]; __syncthreads();",
        "all[i] = nodes[i];",
        also=RACE,
    ),
    mmd(
        "fields of the slopes overwrite a sum of the block",
        "const double total = totals[thread]; __syncthreads();  // before totals are overwritten",
        "const double total = totals[thread];",
        also=RACE,
    ),
    mmd(
        "shared memory for half of the fields",
        "(2 * most_nodes + 2 * kNodeThreads) * sizeof(double)",
        "(2 * most_nodes + kNodeThreads) * sizeof(double)",
        also=ADDRESS,
    ),
    mmd(
        "the slopes of y from the series of x",
        "const T* const series = out.series[sample] +",
        "const T* const series = out.series[0] +",
    ),
    mmd(
        "of two points of a sample, only one has the pair",
        "sums.kappa[r].high *= 2; sums.kappa[r].low *= 2;",
        "",
    ),
    mmd(
        "points are paired before they are in shared memory",
        ": 1; } __syncthreads(); const int held",
        ": 1; } const int held",
        also=RACE,
    ),
    mmd(
        "points in shared memory overwritten before all were paired with them",
        "if (slopes) add(sums.slope[r], slope[r]); } } __syncthreads();",
        "if (slopes) add(sums.slope[r], slope[r]); } }",
        also=RACE,
    ),
    mmd(
        "the last way of a block is left out",
        "for (int way = 0; way < kWays; ++way)",
        "for (int way = 0; way < kWays - 1; ++way)",
    ),
    mmd(
        "the ways of a block are joined before they are done",
        "static_cast<double>(sums.slope[r].low); } __syncthreads();",
        "static_cast<double>(sums.slope[r].low); }",
        also=RACE,
    ),
    mmd(
        "infinite distances are not cut",
        "fmin(kernel.farthest_squared, t * t)",
        "t * t",
    ),
    mmd(
        "pairs of x and y are counted for both",
        "forms[1] = sample == plan.cross ? cross_form : 0;",
        "forms[1] = cross_form;",
    ),
    mmd(
        "the first columns for those that have no panels",
        "const int64_t column = plan.listed ? plan.listed[number] : number;",
        "const int64_t column = number;",
    ),
    mmd(
        "a block takes one tile of pairs only",
        "item < items; item += step) {",
        "item < items; item += items) {",
    ),
    mmd(
        "the masses of y from those of x",
        "excess.squares[2 * element + sample];",
        "excess.squares[2 * element];",
    ),
    mmd(
        "half of a warp's sum",
        "for (int step = 16; step > 0; step /= 2) own",
        "for (int step = 8; step > 0; step /= 2) own",
    ),
    mmd(
        "later steps of the batch write their values to the first one's place",
        "value[first_element + element] = static_cast<T>(total);",
        "value[element] = static_cast<T>(total);",
    ),
    mmd(
        "sums over pairs on the default stream",
        "kPairBytes<T>, stream, inputs",
        "kPairBytes<T>, nullptr, inputs",
    ),
)
