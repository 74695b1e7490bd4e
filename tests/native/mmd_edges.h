// Problems that bring the CUDA variant to the edges of its plan, whose constants are set for each.
#pragma once

#include "mmd_problems.h"

namespace pykernels {
namespace mmd {
// Constants of the CUDA variant's plan, but not in the copy that build.py compiles.
int64_t kMostMemory, kRangeParts, kLeastNodes, kPointsPerNode, kMomentRows, kMomentBlocks, kPairBlocks,
    kListedBlocks;
}  // namespace mmd
}  // namespace pykernels

namespace check {

struct PlanConstants {
  int64_t least_nodes = 512, points_per_node = 1000, moment_rows = 512, pair_blocks = 2000,
          listed_blocks = 1000, most_memory = 256 << 20, range_parts = 3, moment_blocks = 1;

  void set() const {
    namespace plan = pykernels::mmd;
    plan::kMostMemory = most_memory;
    plan::kRangeParts = range_parts;
    plan::kLeastNodes = least_nodes;
    plan::kPointsPerNode = points_per_node;
    plan::kMomentRows = moment_rows;
    plan::kPairBlocks = pair_blocks;
    plan::kListedBlocks = listed_blocks;
    plan::kMomentBlocks = moment_blocks;
  }
};

// Small, so that few points are cut as many are.
inline PlanConstants random_constants(uint64_t number, uint64_t seed) {
  Random random(seed * 7 + number);
  PlanConstants constants;
  constants.least_nodes = random.one_in(2) ? 512 : 64;
  constants.points_per_node = random.one_in(2) ? 2 : 16;
  constants.moment_rows = random.one_in(2) ? 512 : 3;
  constants.pair_blocks = random.one_in(2) ? 2000 : 3;
  constants.listed_blocks = random.one_in(2) ? 1000 : 2;
  constants.most_memory = random.one_in(2) ? 64 << 10 : 256 << 20;
  constants.range_parts = 1 + random.below(5);
  constants.moment_blocks = random.one_in(2) ? 264 : 1;
  return constants;
}

struct Edge {
  Kind kind;
  int64_t n, m, dims;
  std::vector<int64_t> batch;
  std::vector<double> scales;
  double spread, far;  // of the points, and of those in odd dimensions once more
  bool unbiased, weighted, slope_x, slope_y;
  PlanConstants constants;
};

inline const std::vector<Edge>& edges() {
  static const std::vector<double> usual = {0.2, 0.4, 1, 2, 4, 10}, wide = {50, 200};
  static const std::vector<Edge> all = {
      // Rows by rounds, and by splits.
      {Kind::normal, 300, 200, 3, {}, usual, 1, 1, true, false, true, true, {512, 1000, 3}},
      {Kind::normal, 300, 210, 2, {}, wide, 1, 1, true, true, true, true, {64, 1000, 512}},
      {Kind::normal, 200, 140, 9, {}, wide, 1, 1, true, false, true, false, {64, 1000, 5}},
      // Dimensions that take turns in shared memory: in float64, and in float32.
      {Kind::normal, 40, 30, 9, {}, usual, 4, 1, true, false, true, true, {2048}},
      {Kind::normal, 40, 30, 9, {}, usual, 9, 1, true, true, true, true, {2048}},
      // Columns without panels beside others, more than a warp has lanes, and few blocks for them.
      {Kind::normal, 20, 30, 80, {}, usual, 1, 1e4, true, false, true, true, {512, 1000, 512, 3, 2}},
      {Kind::normal, 5, 9, 140, {2}, usual, 1, 1e4, false, false, false, true, {512, 1000, 512, 3, 2}},
      // Several tiles of pairs, with slopes of one sample and of none.
      {Kind::normal, 300, 260, 2, {}, usual, 1, 1e4, true, true, false, false, {512, 1000, 512, 3, 2}},
      {Kind::normal, 300, 260, 2, {}, usual, 1, 1e4, true, false, true, false, {512, 1000, 512, 3, 2}},
      {Kind::normal, 300, 260, 2, {}, usual, 1, 1e4, true, false, false, true, {512, 1000, 512, 3, 2}},
      // More tiles of pairs than half a warp has lanes.
      {Kind::normal, 2300, 60, 1, {}, usual, 1e6, 1, true, false, false, false, {512}},
      // Batch elements after one another.
      {Kind::normal, 30, 20, 3, {2, 3}, usual, 1, 100, true, true, true, true, {512, 2, 512, 3, 2, 1 << 10}},
      {Kind::undefined, 200, 150, 3, {}, usual, 1, 1, true, false, true, true, {512}},
      {Kind::undefined, 90, 150, 5, {3}, usual, 1, 1e4, false, false, true, true, {512}},
      {Kind::huge, 90, 150, 5, {}, usual, 1, 1, false, false, true, true, {512}},
      {Kind::huge, 50, 60, 2, {}, {1e-9, 1e-3, 1}, 1, 1, false, false, true, true, {512}},
      {Kind::huge, 50, 60, 2, {}, {1e9, 1e12}, 1, 1, false, false, false, false, {512}},
  };
  return all;
}

template <class T> Problem<T> problem_of(const Edge& edge, uint64_t seed) {
  Random random(seed);
  Problem<T> p{};
  p.kind = edge.kind;
  p.n = edge.n;
  p.m = edge.m;
  p.dims = edge.dims;
  p.batch = edge.batch;
  for (const int64_t size : p.batch) p.elements *= size;
  p.scales = edge.scales;
  p.unbiased = edge.unbiased;
  p.slopes[0] = edge.slope_x;
  p.slopes[1] = edge.slope_y;
  p.x = points_of<T>(random, p.kind, p.batch, p.n, p.dims);
  p.y = points_of<T>(random, p.kind, p.batch, p.m, p.dims);
  for (Tensor<T>* points : {&p.x, &p.y}) {
    std::vector<bool> done(points->memory.size());  // what batch elements share is met several times
    for (int64_t i = 0; i < points->count(); ++i) {
      const size_t place = points->place(i);
      if (!done[place])
        points->memory[place] *= static_cast<T>(i % p.dims % 2 ? edge.spread * edge.far : edge.spread);
      done[place] = true;
    }
  }
  if (p.kind == Kind::undefined) {
    p.x.memory[p.x.place(1)] = std::numeric_limits<T>::quiet_NaN();
    p.y.memory[p.y.place(p.y.count() - 1)] = std::numeric_limits<T>::infinity();
  }
  if (edge.weighted) {
    p.x_masses = masses_of(random, p.batch, p.n);
    p.y_masses = masses_of(random, p.batch, p.m);
  }
  return p;
}

}  // namespace check
