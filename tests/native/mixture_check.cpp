// Runs one variant of the mixture density on many problems, without Python around it, and compares what it
// returns with the formulas written out in double precision:
//
//   mixture_check VARIANT MODE FIRST END SEED
//
// runs the problems from number FIRST up to END. Modes: `check` makes each call twice, `once` only once,
// `threads` from several threads at once, `interrupts` tells calls to end, `large` takes problems too large
// to compare. Prints a line for each problem that fails, then a digest of the bits of all results; exits with
// 1 if one failed.
#include <cstdio>
#include <thread>

#include "calls.h"

namespace pykernels {
// Constants of the CUDA variant's plan, but not in the copy that build.py compiles.
int64_t kWantedBlocks, kMostMemory;
}  // namespace pykernels

namespace check {
namespace {

// Of what rounding explains, to first order. The largest ratio seen is printed with the digest.
constexpr double kTolerance = 4;

// The outcome of one problem.
struct Outcome {
  std::string problem;  // the first thing that is wrong
  double worst = 0;     // error over the error that rounding explains
  uint64_t digest = 14695981039346656037u;

  void fail(const std::string& what) {
    if (problem.empty()) problem = what;
  }

  template <class T> void add_bits(const std::vector<T>& numbers) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(numbers.data());
    for (size_t i = 0; i < numbers.size() * sizeof(T); ++i) digest = (digest ^ bytes[i]) * 1099511628211u;
  }
};

std::string text(double number) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", number);
  return digits;
}

template <class T>
void compare(Outcome& outcome, const char* name, int64_t at, T actual, const Near& expected) {
  const double error = std::fabs(static_cast<double>(actual) - expected.value);
  const double allowed = expected.error + std::numeric_limits<T>::min();
  if (static_cast<double>(actual) == expected.value) return;  // as infinities are
  if (error <= kTolerance * allowed) {
    outcome.worst = std::max(outcome.worst, error / allowed);
    return;
  }
  outcome.fail(std::string(name) + "[" + std::to_string(at) + "] is " + text(static_cast<double>(actual)) +
               ", not " + text(expected.value) + ": off by " + text(error) + ", and rounding explains " +
               text(expected.error));
}

template <class T>
void compare_all(Outcome& outcome, const char* name, const std::vector<T>& actual,
                 const std::vector<Near>& expected, double unit = 1) {
  for (size_t i = 0; i < actual.size(); ++i)
    compare(outcome, name, static_cast<int64_t>(i), actual[i],
            {expected[i].value * unit, expected[i].error * unit});
}

// A gradient in the shape of its input is a sum over what is shared; between its elements nothing is written.
template <class T>
void compare_gradient(Outcome& outcome, const char* name, const Tensor<T>& actual,
                      const std::vector<Near>& expected) {
  if (!actual.given()) return;
  constexpr double kUnit = std::numeric_limits<T>::epsilon() / 2;
  std::vector<Near> sums(actual.memory.size());
  std::vector<bool> belongs(sums.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const size_t place = actual.place(static_cast<int64_t>(i));
    sums[place].value += expected[i].value;
    sums[place].error += expected[i].error + 2 * kUnit * std::fabs(expected[i].value);
    belongs[place] = true;
  }
  const std::vector<T> empty = unwritten<T>(1);
  for (size_t place = 0; place < sums.size(); ++place) {
    if (belongs[place])
      compare(outcome, name, static_cast<int64_t>(place), actual.memory[place], sums[place]);
    else if (std::memcmp(&actual.memory[place], empty.data(), sizeof(T)) != 0)
      outcome.fail(std::string(name) + " was written where none of its elements lie");
  }
}

template <class T> bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T> bool same_bits(const Forward<T>& a, const Forward<T>& b) {
  return same_bits(a.joint, b.joint) && same_bits(a.joint_log2, b.joint_log2) &&
         same_bits(a.joint_slope, b.joint_slope) && same_bits(a.marginal, b.marginal) &&
         same_bits(a.marginal_log2, b.marginal_log2) && same_bits(a.marginal_slope, b.marginal_slope) &&
         same_bits(a.perplexity, b.perplexity) && same_bits(a.collision_count, b.collision_count);
}

template <class T> bool same_bits(const Backward<T>& a, const Backward<T>& b) {
  return same_bits(a.value.memory, b.value.memory) && same_bits(a.loc.memory, b.loc.memory) &&
         same_bits(a.scale.memory, b.scale.memory) && same_bits(a.log_weights.memory, b.log_weights.memory);
}

template <class T> bool same_bits(const Inputs<T>& a, const Inputs<T>& b) {
  return same_bits(a.value.memory, b.value.memory) && same_bits(a.loc.memory, b.loc.memory) &&
         same_bits(a.scale.memory, b.scale.memory) && same_bits(a.log_weights.memory, b.log_weights.memory);
}

template <class T> void add_bits(Outcome& outcome, const Forward<T>& out) {
  for (const auto* numbers : {&out.joint, &out.joint_slope, &out.marginal, &out.marginal_slope,
                              &out.perplexity, &out.collision_count})
    outcome.add_bits(*numbers);
}

template <class T> void add_bits(Outcome& outcome, const Backward<T>& out) {
  for (const auto* tensor : {&out.value, &out.loc, &out.scale, &out.log_weights})
    outcome.add_bits(tensor->memory);
}

bool gives_slopes(const MixtureVariant& variant) {
  return std::strcmp(variant.name, "emulated") == 0 || std::strcmp(variant.name, "cuda") == 0;
}

template <class Out, class Call>
Out call_once(Outcome& outcome, const MixtureVariant& variant, const Manner& manner, const Call& call) {
  Out out;
  const Status status = call(manner, out);
  if (status != Status::ok) outcome.fail(status_text(status));
  if (launches.elsewhere) outcome.fail(std::string(launches.elsewhere) + " ran on another stream");
  if (gives_slopes(variant) && launches.there == 0) outcome.fail("no kernel was seen on the stream");
  return out;
}

// Calls once or twice, in different manners: the results are to be the same, bit by bit.
template <class Out, class Call>
Out call(Outcome& outcome, const MixtureVariant& variant, bool twice, const Call& call) {
  const Out first = call_once<Out>(outcome, variant, {1, kUnwritten, nullptr}, call);
  if (twice && !same_bits(first, call_once<Out>(outcome, variant, {3, 0x3c, nullptr}, call)))
    outcome.fail("a second call gives other bits");
  return first;
}

template <class T> void compare_forward(Outcome& outcome, const Forward<T>& actual, const Dense& expected) {
  constexpr double kPerLn2 = 1.44269504088896340736;
  compare_all(outcome, "joint", actual.joint, expected.joint);
  compare_all(outcome, "joint_log2", actual.joint_log2, expected.joint, kPerLn2);
  compare_all(outcome, "joint_slope", actual.joint_slope, expected.joint_slope);
  compare_all(outcome, "marginal", actual.marginal, expected.marginal);
  compare_all(outcome, "marginal_log2", actual.marginal_log2, expected.marginal, kPerLn2);
  compare_all(outcome, "marginal_slope", actual.marginal_slope, expected.marginal_slope);
}

template <class T> void compare_backward(Outcome& outcome, const Backward<T>& actual, const Dense& expected) {
  compare_gradient(outcome, "grad_value", actual.value, expected.grad_value);
  compare_gradient(outcome, "grad_loc", actual.loc, expected.grad_loc);
  compare_gradient(outcome, "grad_scale", actual.scale, expected.grad_scale);
  compare_gradient(outcome, "grad_log_weights", actual.log_weights, expected.grad_log_weights);
}

// The forward pass with slopes and without are different kernels; the backward pass goes with either.
template <class T>
void run_both_ways(Outcome& outcome, const MixtureVariant& variant, Case<T>& it, bool twice,
                   const Dense* expected = nullptr) {
  for (int slopes = 0; slopes <= (gives_slopes(variant) ? 1 : 0); ++slopes) {
    const auto run_forward = [&](const Manner& manner, Forward<T>& out) {
      return forward(variant, it, slopes == 1, manner, out);
    };
    const auto densities = call<Forward<T>>(outcome, variant, twice, run_forward);
    add_bits(outcome, densities);
    if (expected) compare_forward(outcome, densities, *expected);
    const auto run_backward = [&](const Manner& manner, Backward<T>& out) {
      return backward(variant, it, densities, slopes == 1 || !gives_slopes(variant), manner, out);
    };
    const auto gradients = call<Backward<T>>(outcome, variant, twice, run_backward);
    add_bits(outcome, gradients);
    if (expected) compare_backward(outcome, gradients, *expected);
  }
}

// The statistics themselves and their gradients are left to Python; here it is their bounds, the gradients of
// the density that the same kernels give, and the memory of them all.
template <class T>
void run_statistics(Outcome& outcome, const MixtureVariant& variant, Case<T>& it, bool twice,
                    const Dense* expected) {
  const auto run = [&](const Manner& manner, Forward<T>& out) {
    return statistics(variant, it, manner, out);
  };
  const auto out = call<Forward<T>>(outcome, variant, twice, run);
  add_bits(outcome, out);
  if (!expected) return;
  compare_forward(outcome, out, *expected);
  const double most = 1.001 * static_cast<double>(it.problem.components);
  for (size_t row = 0; row < out.joint.size(); ++row) {
    const double perplexity = static_cast<double>(out.perplexity[row]),
                 collisions = static_cast<double>(out.collision_count[row]);
    const bool nothing = std::isinf(out.joint[row]) && std::isnan(perplexity) && std::isnan(collisions);
    if (!nothing && !(collisions > 0.999 && collisions < 1.001 * perplexity && perplexity < most))
      outcome.fail("a perplexity is " + text(perplexity) + ", a collision count " + text(collisions));
  }
}

template <class T>
void run_statistics_backward(Outcome& outcome, const MixtureVariant& variant, Case<T>& it, bool twice,
                             const Dense* expected) {
  Forward<T> densities;
  if (statistics(variant, it, {}, densities) != Status::ok) return;  // the forward pass said so
  Random random(it.problem.seed + 1);
  const size_t size = 2 * densities.joint.size();
  for (const bool zero : {true, false}) {
    const std::vector<T> upstream =
        zero ? std::vector<T>(size) : random_numbers<T>(random, static_cast<int64_t>(size));
    const auto run = [&](const Manner& manner, Backward<T>& out) {
      return backward(variant, it, densities, true, manner, out, upstream);
    };
    const auto gradients = call<Backward<T>>(outcome, variant, twice, run);
    add_bits(outcome, gradients);
    if (zero && expected) compare_backward(outcome, gradients, *expected);
  }
}

template <class T>
Outcome check_problem(const MixtureVariant& variant, const Problem& problem, bool twice, bool against_dense) {
  Outcome outcome;
  Case<T> it = case_of<T>(problem);
  const Inputs<T> before = it.inputs;
  Dense expected;
  if (against_dense) expected = DenseMixture<T>(problem, it.inputs, it.upstream).run();
  const Dense* const known = against_dense ? &expected : nullptr;
  run_both_ways(outcome, variant, it, twice, known);
  if (problem.joint && !problem.marginal) {
    run_statistics(outcome, variant, it, twice, known);
    run_statistics_backward(outcome, variant, it, twice, known);
  }
  if (!same_bits(before, it.inputs)) outcome.fail("an input was written");
  return outcome;
}

// Several calls at once, of the same inputs: each gets what a call alone gets.
template <class T> Outcome check_threads(const MixtureVariant& variant, const Problem& problem) {
  constexpr int kCallers = 3;
  Case<T> it = case_of<T>(problem);
  Outcome alone, outcomes[kCallers];
  run_both_ways(alone, variant, it, false);
  std::vector<std::thread> callers;
  for (Outcome& outcome : outcomes) {
    callers.emplace_back([&] { run_both_ways(outcome, variant, it, true); });
  }
  for (std::thread& caller : callers) caller.join();
  for (const Outcome& outcome : outcomes) {
    if (!outcome.problem.empty()) alone.fail(outcome.problem);
    if (outcome.digest != alone.digest) alone.fail("calls at once give other bits");
  }
  return alone;
}

// Counts down how often a call may still ask before it is told to end.
bool count_down(void* left) { return --*static_cast<int*>(left) < 0; }

// A call that is told to end says so; nothing of it stays behind.
template <class T> Outcome check_interrupts(const MixtureVariant& variant, const Problem& problem) {
  Outcome outcome;
  Case<T> it = case_of<T>(problem);
  Forward<T> densities, out;
  Backward<T> gradients;
  forward(variant, it, false, {}, densities);
  for (const int allowed : {0, 1, 7, 40}) {
    for (const int threads : {1, 2}) {
      int left[] = {allowed, allowed};
      Interrupt interrupts[] = {{count_down, &left[0], 0}, {count_down, &left[1], 0}};
      const Manner manners[] = {{threads, kUnwritten, &interrupts[0]}, {threads, kUnwritten, &interrupts[1]}};
      const Status statuses[] = {forward(variant, it, false, manners[0], out),
                                 backward(variant, it, densities, true, manners[1], gradients)};
      for (int pass = 0; pass < 2; ++pass)
        if (statuses[pass] != (left[pass] < 0 ? Status::interrupted : Status::ok))
          outcome.fail(std::string("a call says ") + status_text(statuses[pass]) + " after it was told " +
                       (left[pass] < 0 ? "to end" : "nothing"));
    }
  }
  run_both_ways(outcome, variant, it, false);
  return outcome;
}

template <class T>
Outcome run(const std::string& mode, const MixtureVariant& variant, const Problem& problem) {
  if (mode == "threads") return check_threads<T>(variant, problem);
  if (mode == "interrupts") return check_interrupts<T>(variant, problem);
  return check_problem<T>(variant, problem, mode != "once", mode != "large");
}

int run_all(const std::string& mode, const MixtureVariant& variant, size_t first, size_t end, uint64_t seed) {
  Outcome all;
  int failed = 0;
  for (size_t number = first; number < end; ++number) {
    const bool large = mode == "large" || mode == "interrupts";
    if (large && number >= 2 * large_problems().size()) break;
    const Problem problem = large ? in_a_dtype(large_problems(), number, seed) : problem_of(number, seed);
    pykernels::kWantedBlocks = problem.wanted_blocks;
    pykernels::kMostMemory = problem.most_memory;
    const Outcome outcome =
        problem.single ? run<float>(mode, variant, problem) : run<double>(mode, variant, problem);
    all.add_bits(std::vector<uint64_t>{outcome.digest});
    all.worst = std::max(all.worst, outcome.worst);
    if (outcome.problem.empty()) continue;
    ++failed;
    std::printf("problem %zu of seed %llu (%s): %s\n", number, static_cast<unsigned long long>(seed),
                problem.text().c_str(), outcome.problem.c_str());
  }
  std::printf("digest %016llx, worst error %.2f of what rounding explains\n",
              static_cast<unsigned long long>(all.digest), all.worst);
  return failed > 0 ? 1 : 0;
}

}  // namespace
}  // namespace check

int main(int count, char** arguments) {
  const std::vector<std::string> modes = {"check", "once", "threads", "interrupts", "large"};
  if (count != 6 || std::find(modes.begin(), modes.end(), arguments[2]) == modes.end()) {
    std::fprintf(stderr, "usage: %s VARIANT check|once|threads|interrupts|large FIRST END SEED\n",
                 arguments[0]);
    return 2;
  }
  pykernels::Status status;
  const pykernels::MixtureVariant* variant = pykernels::find_mixture_variant(arguments[1], &status);
  if (!variant) {
    std::fprintf(stderr, "%s: %s\n", arguments[1], pykernels::status_text(status));
    return 3;
  }
  const auto number = [&](int at) { return std::strtoull(arguments[at], nullptr, 10); };
  return check::run_all(arguments[2], *variant, number(3), number(4), number(5));
}
