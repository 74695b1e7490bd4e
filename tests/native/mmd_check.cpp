// Runs one variant of the dimension-wise MMD on many problems, without Python around it, by every method, and
// compares what it returns with sums over all pairs in long double:
//
//   mmd_check VARIANT MODE FIRST END SEED
//
// Problems below 1000 are random; those from 1000 on, as many as there are, bring the CUDA kernels to their
// edges. Modes: `check` makes each call twice, `once` only once, `threads` from several threads at once,
// `interrupts` tells calls to end. Prints a line for each problem that fails, then a digest of the bits of
// all results and the largest error; exits with 1 if one failed.
#include <mmd/mmd.h>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <thread>

#include "launches.h"
#include "mmd_edges.h"
#include "workspace.h"

namespace check {
namespace {

using namespace pykernels;

constexpr uint64_t kFirstEdge = 1000;
constexpr const char* kMethodNames[] = {"automatic", "direct", "panels"};

// Of the interpolated kernel, over kappa(0).
template <class T> constexpr double kTolerance = sizeof(T) == 4 ? 1e-7 : 2e-14;

template <class T> struct Results {
  std::vector<T> value, slopes[2];
};

// The panels of fewest nodes within a tolerance, as the caller is to choose them.
inline void choose_panels(MmdProblem& problem, double tolerance) {
  double least = std::numeric_limits<double>::infinity();
  double smallest = *std::min_element(problem.scales, problem.scales + problem.num_scales);
  for (const int order : {8, 16}) {
    double width = std::exp2(std::ceil(std::log2(std::sqrt(smallest))) + 4), bound;
    do {
      width /= 2;
      bound = 0;
      for (int l = 0; l < problem.num_scales; ++l)
        bound += 1 / std::sinh(order * std::asinh(2 * std::sqrt(problem.scales[l]) / width));
    } while (bound * 2 / problem.num_scales > tolerance);
    if (order / width < least) {
      least = order / width;
      problem.width = width;
      problem.order = order;
    }
  }
}

template <class T>
Status call(const MmdVariant& variant, Problem<T>& p, MmdMethod method, const Manner& manner,
            Results<T>& out) {
  Interrupt none{};
  static char stream;  // an address that the kernels have to hand on
  launches = {&stream, 0, nullptr};
  const MmdExecution execution{manner.threads, manner.interrupt ? manner.interrupt : &none, 0, &stream};
  MmdArguments args{};
  MmdProblem& problem = args.problem;
  problem.dtype = sizeof(T) == 4 ? Dtype::float32 : Dtype::float64;
  problem.batch.ndim = static_cast<int>(p.batch.size());
  for (size_t dim = 0; dim < p.batch.size(); ++dim) problem.batch.sizes[dim] = p.batch[dim];
  problem.n = p.n;
  problem.m = p.m;
  problem.dims = p.dims;
  problem.x = p.x.view();
  problem.y = p.y.view();
  problem.x_masses = p.x_masses.view();
  problem.y_masses = p.y_masses.view();
  std::copy(p.scales.begin(), p.scales.end(), problem.scales);
  problem.num_scales = static_cast<int>(p.scales.size());
  problem.unbiased = p.unbiased;
  problem.method = method;
  choose_panels(problem, kTolerance<T>);
  out.value = unwritten<T>(p.elements);
  args.value = out.value.data();
  for (int s = 0; s < 2; ++s)
    out.slopes[s] = unwritten<T>(p.slopes[s] ? p.elements * (s == 0 ? p.n : p.m) * p.dims : 0);
  args.slope_x = p.slopes[0] ? out.slopes[0].data() : nullptr;
  args.slope_y = p.slopes[1] ? out.slopes[1].data() : nullptr;
  std::vector<double> ranges(static_cast<size_t>(p.elements * p.dims * 2));
  args.ranges = ranges.data();
  if (variant.measure) {
    args.workspace_bytes = variant.measure_workspace(args);
    Workspace first(args.workspace_bytes, manner.workspace_content);
    args.workspace = first.data();
    const Status status = variant.measure(args, execution);
    if (status != Status::ok) return status;
  }
  args.workspace_bytes = variant.workspace(args, manner.threads);
  Workspace second(args.workspace_bytes, manner.workspace_content);
  args.workspace = second.data();
  return variant.run(args, execution);
}

template <class T> bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T> bool same_bits(const Results<T>& a, const Results<T>& b) {
  return same_bits(a.value, b.value) && same_bits(a.slopes[0], b.slopes[0]) &&
         same_bits(a.slopes[1], b.slopes[1]);
}

// What is wrong with one problem, if anything, and the largest error as a share of what is allowed.
struct Outcome {
  std::string problem;
  double worst = 0;
  uint64_t digest = 14695981039346656037u;

  template <class T> void add_bits(const std::vector<T>& numbers) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(numbers.data());
    for (size_t i = 0; i < numbers.size() * sizeof(T); ++i) digest = (digest ^ bytes[i]) * 1099511628211u;
  }

  void fail(const std::string& what) {
    if (problem.empty()) problem = what;
  }
  void compare(const char* what, long double actual, long double expected, long double allowed) {
    const long double error = std::fabs(actual - expected);
    if (std::isnan(expected) ? std::isnan(actual) : error <= allowed) {
      if (allowed > 0 && !std::isnan(expected)) worst = std::max(worst, static_cast<double>(error / allowed));
      return;
    }
    char text[160];
    std::snprintf(text, sizeof text, "%s is %.9Lg, not %.9Lg: off by %.3Lg, of which %.3Lg is allowed", what,
                  actual, expected, error, allowed);
    fail(text);
  }
};

// What a slope may be off by however small it is: the error of kappa' times the masses of all points twice
// over, and that is by rounding, or by interpolation at 16 nodes, whose Lebesgue constant is 2.7.
template <class T> long double least_error(const Problem<T>& p, bool interpolated) {
  long double steepness = 0;
  for (const double scale : p.scales) steepness += 1 / std::sqrt(static_cast<long double>(scale));
  const long double smallest = *std::min_element(p.scales.begin(), p.scales.end());
  const long double rounding = 4 * std::numeric_limits<T>::epsilon() * steepness;
  const long double count = static_cast<long double>(p.scales.size());
  const long double error = kTolerance<T> * count / 2 * 17 / std::sqrt(smallest) * 3.7L;
  long double mass = 1 / static_cast<long double>(std::min(p.n, p.m));
  for (const Tensor<double>* masses : {&p.x_masses, &p.y_masses})
    for (int64_t i = 0; masses->given() && i < masses->count(); ++i)
      mass = std::max(mass, static_cast<long double>(masses->memory[masses->place(i)]));
  return 4 * mass * (rounding + (interpolated ? error : 0));
}

template <class T>
void compare(Outcome& outcome, const Problem<T>& p, bool interpolated, const std::vector<Dense>& all,
             const Results<T>& out) {
  constexpr bool kSingle = sizeof(T) == 4;
  constexpr long double kValue = kSingle ? 1e-6 : 1e-12, kSlope = kSingle ? 4e-6 : 1e-11;
  const long double least = least_error(p, interpolated);
  for (int64_t element = 0; element < p.elements; ++element) {
    long double value = 0, largest = 0, size = 0;
    const Dense* const by_dim = &all[static_cast<size_t>(element * p.dims)];
    for (int64_t d = 0; d < p.dims; ++d) {
      value += by_dim[d].value;
      for (int s = 0; s < 2; ++s)
        for (size_t i = 0; i < by_dim[d].slopes[s].size(); ++i) {
          if (std::isnan(by_dim[d].slopes[s][i])) continue;
          largest = std::max(largest, std::fabs(by_dim[d].slopes[s][i]));
          size = std::max(size, by_dim[d].sizes[s][i]);
        }
    }
    // Sums that cancel to less are only as exact as what they are sums of.
    const long double slope = kSlope * std::max(largest, size / 16) + least;
    const long double within = static_cast<long double>(p.dims) * static_cast<long double>(p.scales.size()) /
                               static_cast<long double>(std::min(p.n, p.m));
    outcome.compare("value", out.value[static_cast<size_t>(element)], value,
                    kValue * (std::fabs(value) + within));
    for (int s = 0; s < 2; ++s) {
      const int64_t count = s == 0 ? p.n : p.m;
      for (int64_t i = 0; i < count * p.dims && p.slopes[s]; ++i) {
        const Dense& expected = by_dim[i % p.dims];
        outcome.compare("slope", out.slopes[s][static_cast<size_t>(element * count * p.dims + i)],
                        std::isnan(expected.value) ? std::numeric_limits<long double>::quiet_NaN()
                                                   : expected.slopes[s][static_cast<size_t>(i / p.dims)],
                        slope);
      }
    }
  }
}

constexpr MmdMethod kMethods[] = {MmdMethod::automatic, MmdMethod::direct, MmdMethod::panels};

template <class T> Outcome check_problem(const MmdVariant& variant, Problem<T>& p, bool twice) {
  Outcome outcome;
  std::vector<Dense> expected;
  for (int64_t column = 0; column < p.elements * p.dims; ++column)
    expected.push_back(dense(p, column / p.dims, column % p.dims));
  const bool emulated = std::strcmp(variant.name, "emulated") == 0;
  for (const MmdMethod method : kMethods) {
    Results<T> out, again;
    const Status status = call(variant, p, method, {1, kUnwritten, nullptr}, out);
    if (status != Status::ok) outcome.fail(status_text(status));
    if (launches.elsewhere) outcome.fail(std::string(launches.elsewhere) + " ran on another stream");
    if (emulated && launches.there == 0) outcome.fail("no kernel was seen on the stream");
    if (twice) call(variant, p, method, {3, 0x3c, nullptr}, again);
    if (twice && !same_bits(out, again)) outcome.fail("a second call gives other bits");
    for (const std::vector<T>* numbers : {&out.value, &out.slopes[0], &out.slopes[1]})
      outcome.add_bits(*numbers);
    compare(outcome, p, method != MmdMethod::direct, expected, out);
    if (!outcome.problem.empty()) {
      outcome.problem += std::string(" (") + kMethodNames[static_cast<int>(method)] + ")";
      break;
    }
  }
  return outcome;
}

// Several calls at once, of the same inputs: each gets what a call alone gets.
template <class T> Outcome check_threads(const MmdVariant& variant, Problem<T>& p) {
  Outcome outcome;
  for (const MmdMethod method : kMethods) {
    Results<T> alone, outs[3];
    call(variant, p, method, {}, alone);
    std::vector<std::thread> callers;
    for (Results<T>& out : outs)
      callers.emplace_back([&] { call(variant, p, method, {2, 0x3c, nullptr}, out); });
    for (std::thread& caller : callers) caller.join();
    for (const Results<T>& out : outs)
      if (!same_bits(out, alone)) outcome.fail("calls at once give other bits");
  }
  return outcome;
}

// Counts down how often a call may still ask before it is told to end.
bool count_down(void* left) { return --*static_cast<int*>(left) < 0; }

template <class T> Outcome check_interrupts(const MmdVariant& variant, Problem<T>& p) {
  Outcome outcome;
  for (const MmdMethod method : kMethods)
    for (const int allowed : {0, 1, 3, 9, 40})
      for (const int threads : {1, 2}) {
        int left = allowed;
        Interrupt interrupt{count_down, &left, 0};
        Results<T> out;
        const Status status = call(variant, p, method, {threads, kUnwritten, &interrupt}, out);
        if (status != (left < 0 ? Status::interrupted : Status::ok))
          outcome.fail(std::string("a call says ") + status_text(status) + " after it was told " +
                       (left < 0 ? "to end" : "nothing"));
      }
  return outcome;
}

template <class T>
Outcome run(const std::string& mode, const MmdVariant& variant, uint64_t number, uint64_t seed) {
  const bool edge = number >= kFirstEdge;
  (edge ? edges()[number - kFirstEdge].constants : random_constants(number, seed)).set();
  Problem<T> p = edge ? problem_of<T>(edges()[number - kFirstEdge], seed) : problem_of<T>(number, seed);
  Outcome outcome = mode == "threads"      ? check_threads(variant, p)
                    : mode == "interrupts" ? check_interrupts(variant, p)
                                           : check_problem(variant, p, mode != "once");
  if (!outcome.problem.empty()) {
    std::printf("problem %llu of seed %llu (float%d, %lld and %lld points, %lld dims, %zu scales, %s): %s\n",
                static_cast<unsigned long long>(number), static_cast<unsigned long long>(seed),
                static_cast<int>(8 * sizeof(T)), static_cast<long long>(p.n), static_cast<long long>(p.m),
                static_cast<long long>(p.dims), p.scales.size(), kKindNames[static_cast<int>(p.kind)],
                outcome.problem.c_str());
  }
  return outcome;
}

}  // namespace
}  // namespace check

int main(int count, char** arguments) {
  const std::vector<std::string> modes = {"check", "once", "threads", "interrupts"};
  if (count != 6 || std::find(modes.begin(), modes.end(), arguments[2]) == modes.end()) {
    std::fprintf(stderr, "usage: %s VARIANT check|once|threads|interrupts FIRST END SEED\n", arguments[0]);
    return 2;
  }
  pykernels::Status status;
  const pykernels::MmdVariant* variant = pykernels::find_mmd_variant(arguments[1], &status);
  if (!variant) {
    std::fprintf(stderr, "%s: %s\n", arguments[1], pykernels::status_text(status));
    return 3;
  }
  const auto number = [&](int at) { return std::strtoull(arguments[at], nullptr, 10); };
  const uint64_t edges_end = check::kFirstEdge + check::edges().size();
  check::Outcome all;
  bool failed = false;
  for (uint64_t at = number(3); at < std::min<uint64_t>(number(4), edges_end); ++at)
    for (const bool single : {true, false}) {
      const check::Outcome outcome = single ? check::run<float>(arguments[2], *variant, at, number(5))
                                            : check::run<double>(arguments[2], *variant, at, number(5));
      all.worst = std::max(all.worst, outcome.worst);
      all.add_bits(std::vector<uint64_t>{outcome.digest});
      failed |= !outcome.problem.empty();
    }
  std::printf("digest %016llx, worst error %.2f of what is allowed\n",
              static_cast<unsigned long long>(all.digest), all.worst);
  return failed ? 1 : 0;
}
