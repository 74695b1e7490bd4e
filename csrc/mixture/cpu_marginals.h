// The forward pass of the marginals, and, in the same pass, the squared distances that the joint density is
// made of.
#pragma once

#include "mixture/cpu_forward.h"

namespace pykernels {
namespace {

// Of a chunk, [vectors][kGroup][lanes] each.
template <class T> struct Squares {
  T* total;  // sums over all dimensions
  T* block;  // over those of a block of kSummedDims so far
};

template <class T> PYKERNELS_INLINE Squares<T> from_vector(const Squares<T>& squares, int64_t v) {
  const int64_t o = v * kGroup * kLanes<T>;
  return {squares.total + o, squares.block + o};
}

// What a kernel has in registers at a time: sums of exponentials of some dimensions and rows. Squared
// distances go through memory from one dimension to the next, which is less where two are taken at once.
struct Patch {
  int dims, rows;
};
constexpr Patch kPatch{1, kGroup};
constexpr Patch kSquaresPatch = kVectorBytes == 64 ? Patch{2, kGroup} : kPatch;

// Adds the components of one chunk to the sums of `kDims` dimensions from d on, for `kRows` rows of a group
// from `first` on.
template <class T, int kDims, int kRows, bool kSquares, bool kBand>
void add_patch(const Chunk<T>& chunk, const T* rows, const T* offsets, int64_t d, int first, Running* state,
               const Squares<T>& squares) {
  Vector<T> partial[kDims][kRows];
  T reference[kDims][kGroup];
  for (int j = 0; j < kDims; ++j) {
    for (int k = 0; k < kGroup; ++k) reference[j][k] = static_cast<T>(state[d + j].reference[k]);
    for (int k = 0; k < kRows; ++k) partial[j][k] = Vector<T>{};
  }
  const bool starts = d % kSummedDims == 0, ends = (d + kDims) % kSummedDims == 0 || d + kDims == chunk.dims;
  for (int64_t v = 0; v < chunk.vectors; ++v) {
    const int64_t place = (v * kGroup + first) * kLanes<T>;
    Vector<T> square[kRows];
    for (int k = 0; kSquares && k < kRows; ++k)
      square[k] = starts ? Vector<T>{} : load(squares.block + place + k * kLanes<T>);
#pragma GCC unroll 4
    for (int j = 0; j < kDims; ++j) {
      const int64_t o = (v * chunk.dims + d + j) * kLanes<T>;
      const T* const z = rows + (d + j) * kGroup + first;
      const Vector<T> m = load(chunk.loc + o), w = load(chunk.precision + o),
                      constant = load(chunk.marginal_constant + o);
      Vector<T> x[kRows];
      AllLe<T> below;
#pragma GCC unroll 8
      for (int k = 0; k < kRows; ++k) {
        const Vector<T> e = m - splat(z[k]), q = add_weighted_square(e, w, Vector<T>{});
        // As squared_distances does it: the joint backward pass must find the same bits.
        if constexpr (kSquares) square[k] = add_weighted_square(e, w, square[k]);
        x[k] = (constant_of<T, kBand>(constant, offsets, v, first + k) - splat(reference[j][first + k])) - q;
        below.look(x[k], splat(T(kHeadroom)));
      }
      if (__builtin_expect(below.failed(), 0)) {
        // Copies, so that the sums themselves can stay in registers; other rows of the group have nothing to
        // add.
        Vector<T> exponent[kGroup], summed[kGroup];
        for (int k = 0; k < kGroup; ++k) {
          exponent[k] = splat(-Float<T>::infinity);
          summed[k] = Vector<T>{};
        }
        for (int k = 0; k < kRows; ++k) {
          exponent[first + k] = constant_of<T, kBand>(constant, offsets, v, first + k) -
                                add_weighted_square(m - splat(z[k]), w, Vector<T>{});
          summed[first + k] = partial[j][k];
        }
        move_references<T>(exponent, summed, reference[j], state[d + j]);
        for (int k = 0; k < kRows; ++k) {
          x[k] = exponent[first + k] - splat(reference[j][first + k]);
          partial[j][k] = summed[first + k];
        }
      }
#pragma GCC unroll 8
      for (int k = 0; k < kRows; ++k) partial[j][k] = add_exp2(x[k], partial[j][k]);
    }
    for (int k = 0; kSquares && k < kRows; ++k) {
      T* const total = squares.total + place + k * kLanes<T>;
      if (!ends) {
        store(squares.block + place + k * kLanes<T>, square[k]);
      } else {
        store(total, d < kSummedDims ? square[k] : load(total) + square[k]);
      }
    }
  }
  for (int j = 0; j < kDims; ++j)
    for (int k = 0; k < kRows; ++k) state[d + j].total[first + k] += static_cast<double>(sum(partial[j][k]));
}

// Adds the components of one chunk to the sums of one group of rows; state is one Running per dimension.
// `squares` receives the joint squared distances, which are the sums of what is computed here; with kBand
// there are offsets, see cpu_band.h.
template <class T, bool kSquares, bool kBand>
void add_marginals(const Chunk<T>& chunk, const T* rows, const T* offsets, Running* state,
                   const Squares<T>& squares) {
  constexpr Patch patch = kSquares ? kSquaresPatch : kPatch;
  int64_t d = 0;
  for (; d + patch.dims <= chunk.dims; d += patch.dims)
    for (int first = 0; first < kGroup; first += patch.rows)
      add_patch<T, patch.dims, patch.rows, kSquares, kBand>(chunk, rows, offsets, d, first, state, squares);
  for (; d < chunk.dims; ++d)
    add_patch<T, 1, kGroup, kSquares, kBand>(chunk, rows, offsets, d, 0, state, squares);
}

}  // namespace
}  // namespace pykernels
