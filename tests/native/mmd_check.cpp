// Runs one variant of the dimension-wise MMD on many random problems, without Python around it, by every method,
// and compares what it returns with sums over all pairs in long double:
//
//   mmd_check VARIANT MODE FIRST END SEED
//
// Modes: `check` makes each call twice, `threads` from several threads at once, `interrupts` tells calls to end.
// Prints a line for each problem that fails, then the largest error; exits with 1 if one failed.
#include <mmd/mmd.h>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <thread>

#include "workspace.h"

namespace check {
namespace {

using namespace pykernels;

enum class Kind { normal, offset, lattice, equal, clusters, tails, huge, tiny, outlier, undefined };
constexpr int kKinds = 10;
constexpr const char* kKindNames[] = {"normal", "offset", "lattice", "equal",   "clusters",
                                      "tails",  "huge",   "tiny",    "outlier", "undefined"};
constexpr const char* kMethodNames[] = {"automatic", "direct", "panels"};

template <class T> struct Problem {
  Kind kind;
  int64_t n, m, dims, elements = 1;
  std::vector<int64_t> batch;
  std::vector<double> scales;
  bool unbiased, slopes[2];
  Tensor<T> x, y;
  Tensor<double> x_masses, y_masses;
};

template <class T> T point_of(Random& random, Kind kind) {
  constexpr int kExponent = std::numeric_limits<T>::max_exponent;
  const double z = random.normal();
  switch (kind) {
    case Kind::offset: return static_cast<T>(z + 1e4);
    case Kind::lattice: return static_cast<T>(std::round(z));
    case Kind::equal: return static_cast<T>(1.1);
    case Kind::clusters: return static_cast<T>(z + (random.one_in(2) ? 1e5 : -1e5));
    case Kind::tails: return static_cast<T>(z / std::max(1e-12, std::fabs(random.normal())));
    case Kind::huge: return static_cast<T>(z < 0 ? -1 : 1) * std::ldexp(T(1), kExponent - 1 - static_cast<int>(random.below(40)));
    case Kind::tiny: return std::ldexp(static_cast<T>(z), -kExponent);
    default: return static_cast<T>(z);
  }
}

inline Shape shape_of(Random& random, const std::vector<int64_t>& batch, std::vector<int64_t> own) {
  Shape shape{batch, {}};
  shape.sizes.insert(shape.sizes.end(), own.begin(), own.end());
  for (size_t dim = 0; dim < shape.sizes.size(); ++dim)
    shape.shared.push_back(dim < batch.size() && random.one_in(3));
  return shape;
}

template <class T>
Tensor<T> points_of(Random& random, Kind kind, const std::vector<int64_t>& batch, int64_t count, int64_t dims) {
  Tensor<T> tensor = new_tensor<T>(random, shape_of(random, batch, {count, dims}));
  for (int64_t i = 0; i < tensor.count(); ++i) tensor.memory[tensor.place(i)] = point_of<T>(random, kind);
  return tensor;
}

inline Tensor<double> masses_of(Random& random, const std::vector<int64_t>& batch, int64_t count) {
  Tensor<double> tensor = new_tensor<double>(random, shape_of(random, batch, {count}));
  for (int64_t element = 0; element < tensor.count() / count; ++element) {
    double total = 0;
    std::vector<double> masses(static_cast<size_t>(count));
    for (double& mass : masses) total += mass = random.one_in(8) ? 0 : random.uniform();
    for (int64_t i = 0; i < count; ++i)
      tensor.memory[tensor.place(element * count + i)] =
          total > 0 ? masses[static_cast<size_t>(i)] / total : 1 / static_cast<double>(count);
  }
  return tensor;
}

template <class T> Problem<T> problem_of(uint64_t number, uint64_t seed) {
  Random random(seed * 1000003 + number);
  Problem<T> p{};
  p.kind = static_cast<Kind>(number % kKinds);
  const bool large = number % 37 == 5;  // several tasks, for several threads
  p.dims = large ? 6 : 1 + random.below(random.one_in(4) ? 40 : 4);
  const auto size = [&] { return large ? 300 + random.below(300) : 2 + random.below(random.one_in(3) ? 160 : 40); };
  p.n = size();
  p.m = size();
  p.batch = random.one_in(3) && !large ? std::vector<int64_t>{2, 1 + random.below(2)} : std::vector<int64_t>{};
  for (const int64_t dim : p.batch) p.elements *= dim;
  p.scales = {0.2, 0.4, 1, 2, 4, 10};
  if (random.one_in(2)) {
    p.scales.resize(static_cast<size_t>(1 + random.below(random.one_in(4) ? kMostMmdScales : 8)));
    for (double& scale : p.scales) scale = std::exp2(random.normal() * (random.one_in(4) ? 20 : 3));
  }
  p.unbiased = random.one_in(2);
  for (bool& asked : p.slopes) asked = !random.one_in(3);
  p.x = points_of<T>(random, p.kind, p.batch, p.n, p.dims);
  p.y = points_of<T>(random, p.kind, p.batch, p.m, p.dims);
  if (p.kind == Kind::outlier)
    p.x.memory[p.x.place(0)] = std::ldexp(T(1), static_cast<int>(random.below(std::numeric_limits<T>::max_exponent)));
  if (p.kind == Kind::undefined) {
    const T bad[] = {std::numeric_limits<T>::infinity(), -std::numeric_limits<T>::infinity(),
                     std::numeric_limits<T>::quiet_NaN()};
    p.y.memory[p.y.place(random.below(p.y.count()))] = bad[random.below(3)];
  }
  if (random.one_in(2)) p.x_masses = masses_of(random, p.batch, p.n);
  if (random.one_in(2)) p.y_masses = masses_of(random, p.batch, p.m);
  return p;
}

// Of one dimension of one batch element, and how large it is that rounding acts on.
struct Dense {
  long double value = 0;
  std::vector<long double> slopes[2], sizes[2];
};

template <class T> Dense dense(const Problem<T>& p, int64_t element, int64_t d) {
  std::vector<long double> points[2], masses[2];
  long double factor[2];
  for (int s = 0; s < 2; ++s) {
    const Tensor<T>& tensor = s == 0 ? p.x : p.y;
    const Tensor<double>& mass = s == 0 ? p.x_masses : p.y_masses;
    const int64_t count = s == 0 ? p.n : p.m;
    long double squares = 0;
    for (int64_t i = 0; i < count; ++i) {
      points[s].push_back(tensor.memory[tensor.place((element * count + i) * p.dims + d)]);
      masses[s].push_back(mass.given() ? static_cast<long double>(mass.memory[mass.place(element * count + i)])
                                       : 1 / static_cast<long double>(count));
      squares += masses[s].back() * masses[s].back();
    }
    factor[s] = p.unbiased ? 1 / (1 - squares) : 1;
  }
  Dense out;
  for (const std::vector<long double>& sample : points)
    for (const long double point : sample) out.value += 0 * point;  // NaN where one is not finite
  for (int a = 0; a < 2; ++a) {
    out.slopes[a].resize(points[a].size());
    out.sizes[a].resize(points[a].size());
    for (int b = 0; b < 2; ++b)
      for (size_t i = 0; i < points[a].size(); ++i)
        for (size_t j = 0; j < points[b].size(); ++j) {
          if (a == b && i == j && p.unbiased) continue;
          const long double mass = masses[a][i] * masses[b][j] * (a == b ? factor[a] : -1);
          const long double t = points[a][i] - points[b][j];
          for (const double scale : p.scales) {
            const long double r = 1 / (scale + t * t);
            out.value += mass * scale * r;
            out.slopes[a][i] += -4 * mass * scale * t * r * r;
            out.sizes[a][i] += std::fabs(4 * mass * scale * t * r * r);
          }
        }
  }
  return out;
}

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
Status call(const MmdVariant& variant, Problem<T>& p, MmdMethod method, const Manner& manner, Results<T>& out) {
  Interrupt none{};
  const MmdExecution execution{manner.threads, manner.interrupt ? manner.interrupt : &none};
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
  args.workspace_bytes = variant.measure_workspace(args);
  Workspace first(args.workspace_bytes, manner.workspace_content);
  args.workspace = first.data();
  const Status status = variant.measure(args, execution);
  if (status != Status::ok) return status;
  args.workspace_bytes = variant.workspace(args, manner.threads);
  Workspace second(args.workspace_bytes, manner.workspace_content);
  args.workspace = second.data();
  return variant.run(args, execution);
}

template <class T> bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T> bool same_bits(const Results<T>& a, const Results<T>& b) {
  return same_bits(a.value, b.value) && same_bits(a.slopes[0], b.slopes[0]) && same_bits(a.slopes[1], b.slopes[1]);
}

// What is wrong with one problem, if anything, and the largest error as a share of what is allowed.
struct Outcome {
  std::string problem;
  double worst = 0;

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

// What a slope may be off by however small it is: the error of kappa' times the masses of all points twice over,
// and that is by rounding, or by interpolation at 16 nodes, whose Lebesgue constant is 2.7.
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
void compare(Outcome& outcome, const Problem<T>& p, bool interpolated, const Results<T>& out) {
  constexpr bool kSingle = sizeof(T) == 4;
  constexpr long double kValue = kSingle ? 1e-6 : 1e-12, kSlope = kSingle ? 4e-6 : 1e-11;
  const long double least = least_error(p, interpolated);
  for (int64_t element = 0; element < p.elements; ++element) {
    long double value = 0, largest = 0, size = 0;
    std::vector<Dense> by_dim;
    for (int64_t d = 0; d < p.dims; ++d) {
      by_dim.push_back(dense(p, element, d));
      value += by_dim.back().value;
      for (int s = 0; s < 2; ++s)
        for (size_t i = 0; i < by_dim.back().slopes[s].size(); ++i) {
          if (std::isnan(by_dim.back().slopes[s][i])) continue;
          largest = std::max(largest, std::fabs(by_dim.back().slopes[s][i]));
          size = std::max(size, by_dim.back().sizes[s][i]);
        }
    }
    // Sums that cancel to less are only as exact as what they are sums of.
    const long double slope = kSlope * std::max(largest, size / 16) + least;
    const long double within =
        static_cast<long double>(p.dims) * static_cast<long double>(p.scales.size()) / static_cast<long double>(std::min(p.n, p.m));
    outcome.compare("value", out.value[static_cast<size_t>(element)], value, kValue * (std::fabs(value) + within));
    for (int s = 0; s < 2; ++s) {
      const int64_t count = s == 0 ? p.n : p.m;
      for (int64_t i = 0; i < count * p.dims && p.slopes[s]; ++i) {
        const Dense& expected = by_dim[static_cast<size_t>(i % p.dims)];
        outcome.compare("slope", out.slopes[s][static_cast<size_t>(element * count * p.dims + i)],
                        std::isnan(expected.value) ? std::numeric_limits<long double>::quiet_NaN()
                                                   : expected.slopes[s][static_cast<size_t>(i / p.dims)],
                        slope);
      }
    }
  }
}

constexpr MmdMethod kMethods[] = {MmdMethod::automatic, MmdMethod::direct, MmdMethod::panels};

template <class T> Outcome check_problem(const MmdVariant& variant, Problem<T>& p) {
  Outcome outcome;
  for (const MmdMethod method : kMethods) {
    Results<T> out, again;
    const Status status = call(variant, p, method, {1, kUnwritten, nullptr}, out);
    if (status != Status::ok) outcome.fail(status_text(status));
    call(variant, p, method, {3, 0x3c, nullptr}, again);
    if (!same_bits(out, again)) outcome.fail("a second call gives other bits");
    compare(outcome, p, method != MmdMethod::direct, out);
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
    for (Results<T>& out : outs) callers.emplace_back([&] { call(variant, p, method, {2, 0x3c, nullptr}, out); });
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
  Problem<T> p = problem_of<T>(number, seed);
  Outcome outcome = mode == "threads"      ? check_threads(variant, p)
                    : mode == "interrupts" ? check_interrupts(variant, p)
                                           : check_problem(variant, p);
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
  const std::vector<std::string> modes = {"check", "threads", "interrupts"};
  if (count != 6 || std::find(modes.begin(), modes.end(), arguments[2]) == modes.end()) {
    std::fprintf(stderr, "usage: %s VARIANT check|threads|interrupts FIRST END SEED\n", arguments[0]);
    return 2;
  }
  pykernels::Status status;
  const pykernels::MmdVariant* variant = pykernels::find_mmd_variant(arguments[1], &status);
  if (!variant) {
    std::fprintf(stderr, "%s: %s\n", arguments[1], pykernels::status_text(status));
    return 3;
  }
  const auto number = [&](int at) { return std::strtoull(arguments[at], nullptr, 10); };
  double worst = 0;
  bool failed = false;
  for (uint64_t at = number(3); at < number(4); ++at)
    for (const bool single : {true, false}) {
      const check::Outcome outcome = single ? check::run<float>(arguments[2], *variant, at, number(5))
                                            : check::run<double>(arguments[2], *variant, at, number(5));
      worst = std::max(worst, outcome.worst);
      failed |= !outcome.problem.empty();
    }
  std::printf("worst error %.2f of what is allowed\n", worst);
  return failed ? 1 : 0;
}
