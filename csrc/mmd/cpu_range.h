// How far the points reach: the one pass that decides which way the sums are taken, and that finds NaN and
// infinity before any number becomes an index.
#pragma once

#include "mmd/cpu_points.h"

namespace pykernels {
namespace {

constexpr int64_t kRangeRows = 256;

static inline int64_t range_tasks(const MmdProblem& problem) {
  return at_least(1, at_most(32, (problem.n + problem.m) * problem.dims >> 20));
}

template <class T> struct RangeTask {
  T *lowest, *highest, *defined;  // [dims][kUnit], lanes as in the rows; defined: 0, or NaN
  T* rows;                        // [kRangeRows][dims]
};

template <class T> RangeTask<T>* take_range_tasks(Arena& arena, int64_t dims, int64_t count) {
  RangeTask<T>* const tasks = take<RangeTask<T>>(arena, count);
  const int64_t size = dims * kUnit<T>;
  for (int64_t index = 0; index < count; ++index) {
    RangeTask<T> task;
    task.lowest = take<T>(arena, size);
    task.highest = take<T>(arena, size);
    task.defined = take<T>(arena, size);
    task.rows = take<T>(arena, kRangeRows * dims);
    if (arena.base) tasks[index] = task;
  }
  return tasks;
}

template <class T>
void measure_rows(const Points<T>& points, int64_t first, int64_t last, RangeTask<T>& task) {
  const bool in_place = points.dense();
  for (; first < last; first += kRangeRows) {
    const int64_t count = at_most(kRangeRows, last - first);
    const T* const rows = rows_of(points, in_place, first, count, task.rows);
    for_units<T>(count, points.dims, [&](int64_t position, int64_t place, int held) {
      Unit<T> x = unit_at(rows, position, held);
      const int64_t at = place * kUnit<T>;
      if (held < kUnit<T>)
        for (int lane = held; lane < kUnit<T>; ++lane) x[lane] = task.lowest[at + lane];
      const Unit<T> lowest = load_unit(task.lowest + at), highest = load_unit(task.highest + at);
      store_unit<T>(task.lowest + at, x < lowest ? x : lowest);
      store_unit<T>(task.highest + at, x > highest ? x : highest);
      store_unit<T>(task.defined + at, load_unit(task.defined + at) + (x - x));
    });
  }
}

// Of one batch element; ranges is [dims][2].
template <class T>
void measure_points(const Points<T>* samples, double* ranges, RangeTask<T>* tasks, int64_t wanted,
                    int threads, Interrupt& interrupt) {
  const int64_t dims = samples[0].dims;
  // Every task starts from the first point, which is as good as any.
  parallel_tasks(wanted, threads, interrupt, [&](int64_t index, int) {
    RangeTask<T>& task = tasks[index];
    for (int64_t at = 0; at < dims * kUnit<T>; ++at) {
      task.lowest[at] = task.highest[at] = samples[0].at(0, at % dims);
      task.defined[at] = 0;
    }
    for (int s = 0; s < 2; ++s) {
      // In whole groups of rows, where the lanes begin anew.
      const int64_t groups = ceil_div(samples[s].count, kUnit<T>);
      measure_rows(samples[s], groups * index / wanted * kUnit<T>,
                   at_most(samples[s].count, groups * (index + 1) / wanted * kUnit<T>), task);
    }
  });
  for (int64_t d = 0; d < dims; ++d) {
    double lowest = static_cast<double>(samples[0].at(0, d)), highest = lowest, defined = lowest - lowest;
    for (int64_t index = 0; index < wanted; ++index) {
      for (int64_t at = d; at < dims * kUnit<T>; at += dims) {
        const double low = tasks[index].lowest[at], high = tasks[index].highest[at];
        lowest = low < lowest ? low : lowest;
        highest = high > highest ? high : highest;
        defined += static_cast<double>(tasks[index].defined[at]);
      }
    }
    ranges[2 * d] = lowest + defined;
    ranges[2 * d + 1] = highest + defined;
  }
}

}  // namespace
}  // namespace pykernels
