// Seeded random numbers, and tensors in memory of exactly the size that they need, so that AddressSanitizer
// sees whoever goes beyond it.
#pragma once

#include <core/tensor.h>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace check {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {  // splitmix64: the same numbers with every library
    uint64_t x = state_ += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }

  int64_t below(int64_t bound) { return static_cast<int64_t>(next() % static_cast<uint64_t>(bound)); }
  bool one_in(int64_t count) { return below(count) == 0; }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  }

  template <class T> const T& one_of(const std::vector<T>& choices) {
    return choices[static_cast<size_t>(below(static_cast<int64_t>(choices.size())))];
  }

 private:
  uint64_t state_;
};

// Sizes, batch dimensions first, and which dimensions have stride 0.
struct Shape {
  std::vector<int64_t> sizes;
  std::vector<bool> shared;
};

// Every byte of memory that nothing was written to; NaN, to a float or a double.
constexpr unsigned char kUnwritten = 0xff;

template <class T> std::vector<T> unwritten(int64_t count) {
  std::vector<T> memory(static_cast<size_t>(count));
  std::memset(memory.data(), kUnwritten, memory.size() * sizeof(T));
  return memory;
}

template <class T> struct Tensor {
  Shape shape;
  int64_t start = 0;
  std::vector<int64_t> strides;
  std::vector<T> memory;

  bool given() const { return !memory.empty(); }

  pykernels::StridedTensor view() {
    pykernels::StridedTensor view{};
    if (!given()) return view;
    view.data = memory.data() + start;
    for (size_t dim = 0; dim < strides.size(); ++dim) view.strides[dim] = strides[dim];
    return view;
  }

  // Where an element lies; `index` counts the elements of the whole shape, row-major.
  size_t place(int64_t index) const {
    int64_t place = start;
    for (size_t dim = strides.size(); dim-- > 0; index /= shape.sizes[dim])
      place += index % shape.sizes[dim] * strides[dim];
    return static_cast<size_t>(place);
  }

  int64_t count() const {
    int64_t count = 1;
    for (const int64_t size : shape.sizes) count *= size;
    return count;
  }
};

// The order of the dimensions in memory, outermost first.
inline std::vector<size_t> memory_order(Random& random, size_t ndim) {
  std::vector<size_t> order(ndim);
  for (size_t dim = 0; dim < ndim; ++dim) order[dim] = dim;
  if (random.one_in(2)) return order;
  for (size_t dim = ndim; dim > 1; --dim)
    std::swap(order[dim - 1], order[static_cast<size_t>(random.below(static_cast<int64_t>(dim)))]);
  return order;
}

// Contiguous, transposed, a slice, or misaligned, by chance.
template <class T> Tensor<T> new_tensor(Random& random, const Shape& shape) {
  const size_t ndim = shape.sizes.size();
  const std::vector<size_t> order = memory_order(random, ndim);
  const bool dense = random.one_in(2);
  Tensor<T> tensor{shape, dense ? 0 : random.below(4), std::vector<int64_t>(ndim), {}};
  int64_t size = 1, last = tensor.start;
  for (size_t k = ndim; k-- > 0;) {
    const size_t dim = order[k];
    if (shape.shared[dim]) continue;
    const int64_t gap = dense ? 0 : random.below(3);
    tensor.strides[dim] = size + gap;  // of a dimension of size 1 nothing may depend on it
    last += (shape.sizes[dim] - 1) * tensor.strides[dim];
    size = shape.sizes[dim] * tensor.strides[dim];
  }
  tensor.memory = unwritten<T>(last + 1);
  return tensor;
}

}  // namespace check
