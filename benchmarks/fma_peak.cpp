// What the multiply-add units of this machine can do: prints fused multiply-adds per second, every lane counted,
// on as many threads as the first argument says, with vectors of LANES floats.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

typedef float Vector __attribute__((vector_size(4 * LANES)));

constexpr int kChains = 12;  // independent, so more than latency times units; and few enough for 16 registers
constexpr long kSteps = 500000;  // a few milliseconds, which other processes may leave alone

static volatile float sink;

static void work() {
  const float zero = sink;  // not known to the compiler
  const Vector factor = Vector{} + (zero + 0.5f), term = Vector{} + (zero + 1.0f);
  Vector chain[kChains];
  for (int k = 0; k < kChains; ++k) chain[k] = Vector{} + (zero + static_cast<float>(k));  // no two alike
  for (long step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (int k = 0; k < kChains; ++k) chain[k] = chain[k] * factor + term;
  }
  Vector sum = {};
  for (int k = 0; k < kChains; ++k) sum += chain[k];
  sink = sum[0] * 0;
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  double best = 0;
  for (int round = 0; round < 200; ++round) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(work);
    work();
    for (auto& other : others) other.join();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    const double rate = static_cast<double>(threads) * kSteps * kChains * LANES / taken.count();
    if (rate > best) best = rate;
  }
  std::printf("%.6g\n", best);
}
