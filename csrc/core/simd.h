// The small vector vocabulary of the CPU kernels: one width per instruction set, chosen by the flags of the
// translation unit. Everything is in an unnamed namespace or a compiler vector type, so that no code of one
// instruction set can be linked into another. Arithmetic is the compilers' own (+, -, *, / on vector types);
// fused multiply-adds are written out, because the build turns implicit contraction off.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "core/inline.h"

namespace pykernels {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T> struct VectorOf;
template <> struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef int32_t bits __attribute__((vector_size(kVectorBytes)));
};
template <> struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef int64_t bits __attribute__((vector_size(kVectorBytes)));
};
template <class T> using Vector = typename VectorOf<T>::type;
template <class T> using Bits = typename VectorOf<T>::bits;
template <class T> constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

using VectorF = Vector<float>;
using VectorD = Vector<double>;

template <class T> struct Float;
template <> struct Float<float> {
  using integer = int32_t;
  static constexpr int mantissa_bits = 23;
  static constexpr int bias = 127;
  static constexpr float lowest = -3.402823466e+38f;
  static constexpr float large = 0x1p40f;  // three multiplied stay finite
  static constexpr float infinity = __builtin_inff();
  static constexpr float round_to_int =
      12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
};
template <> struct Float<double> {
  using integer = int64_t;
  static constexpr int mantissa_bits = 52;
  static constexpr int bias = 1023;
  static constexpr double lowest = -1.7976931348623157e+308;
  static constexpr double large = 0x1p300;
  static constexpr double infinity = __builtin_inf();
  static constexpr double round_to_int = 6755399441055744.0;  // 1.5 * 2^52
};

template <class T> PYKERNELS_INLINE Vector<T> load(const T* aligned) {
  Vector<T> v;
  std::memcpy(&v, __builtin_assume_aligned(aligned, kVectorBytes), sizeof v);
  return v;
}
template <class T> PYKERNELS_INLINE void store(T* aligned, Vector<T> v) {
  std::memcpy(__builtin_assume_aligned(aligned, kVectorBytes), &v, sizeof v);
}
template <class T> PYKERNELS_INLINE Vector<T> splat(T x) { return x - Vector<T>{}; }

#if defined(__AVX512F__)

PYKERNELS_INLINE VectorF fma(VectorF a, VectorF b, VectorF c) {
  return (VectorF)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
PYKERNELS_INLINE VectorD fma(VectorD a, VectorD b, VectorD c) {
  return (VectorD)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
// c - a b.
PYKERNELS_INLINE VectorF fnma(VectorF a, VectorF b, VectorF c) {
  return (VectorF)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
PYKERNELS_INLINE VectorD fnma(VectorD a, VectorD b, VectorD c) {
  return (VectorD)_mm512_fnmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
PYKERNELS_INLINE float sum(VectorF v) { return _mm512_reduce_add_ps((__m512)v); }
PYKERNELS_INLINE double sum(VectorD v) { return _mm512_reduce_add_pd((__m512d)v); }
// Non-zero if a <= b fails in some lane; a NaN fails it.
PYKERNELS_INLINE unsigned not_le(VectorF a, VectorF b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NLE_UQ);
}
PYKERNELS_INLINE unsigned not_le(VectorD a, VectorD b) {
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NLE_UQ);
}

#elif defined(__AVX2__)

PYKERNELS_INLINE VectorF fma(VectorF a, VectorF b, VectorF c) {
  return (VectorF)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
PYKERNELS_INLINE VectorD fma(VectorD a, VectorD b, VectorD c) {
  return (VectorD)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
PYKERNELS_INLINE VectorF fnma(VectorF a, VectorF b, VectorF c) {
  return (VectorF)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
PYKERNELS_INLINE VectorD fnma(VectorD a, VectorD b, VectorD c) {
  return (VectorD)_mm256_fnmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
PYKERNELS_INLINE unsigned not_le(VectorF a, VectorF b) {
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_NLE_UQ));
}
PYKERNELS_INLINE unsigned not_le(VectorD a, VectorD b) {
  return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_NLE_UQ));
}
PYKERNELS_INLINE float sum(VectorF v) {
  __m128 q = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
PYKERNELS_INLINE double sum(VectorD v) {
  __m128d h = _mm_add_pd(_mm256_castpd256_pd128((__m256d)v), _mm256_extractf128_pd((__m256d)v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}

#else

template <class V> PYKERNELS_INLINE V fma(V a, V b, V c) { return a * b + c; }
template <class V> PYKERNELS_INLINE V fnma(V a, V b, V c) { return c - a * b; }
PYKERNELS_INLINE float sum(VectorF v) { return (v[0] + v[1]) + (v[2] + v[3]); }
PYKERNELS_INLINE double sum(VectorD v) { return v[0] + v[1]; }
PYKERNELS_INLINE unsigned not_le(VectorF a, VectorF b) {
  const Bits<float> le = a <= b;
  return ~(le[0] & le[1] & le[2] & le[3]);
}
PYKERNELS_INLINE unsigned not_le(VectorD a, VectorD b) {
  const Bits<double> le = a <= b;
  return static_cast<unsigned>(~(le[0] & le[1]));
}

#endif

// Whether a <= b has held in every lane of every pair that was looked at; a NaN fails it.
template <class T> struct AllLe {
#if defined(__AVX512F__)
  // Each comparison masks the next one: nothing leaves the mask registers but the last.
  static constexpr __mmask16 kAll = sizeof(T) == 4 ? 0xffff : 0xff;
  __mmask16 held = kAll;
  __attribute__((always_inline)) void look(VectorF a, VectorF b) {
    held = _mm512_mask_cmp_ps_mask(held, (__m512)a, (__m512)b, _CMP_LE_OQ);
  }
  __attribute__((always_inline)) void look(VectorD a, VectorD b) {
    held = _mm512_mask_cmp_pd_mask(static_cast<__mmask8>(held), (__m512d)a, (__m512d)b, _CMP_LE_OQ);
  }
  __attribute__((always_inline)) bool failed() const { return held != kAll; }
#else
  unsigned over = 0;
  __attribute__((always_inline)) void look(Vector<T> a, Vector<T> b) { over |= not_le(a, b); }
  __attribute__((always_inline)) bool failed() const { return over != 0; }
#endif
};

// All lanes in double, in one vector or two.
template <class T> constexpr int kWideParts = 8 / static_cast<int>(sizeof(T));
PYKERNELS_INLINE void widen(VectorD v, VectorD (&parts)[1]) { parts[0] = v; }
PYKERNELS_INLINE void widen(VectorF v, VectorD (&parts)[2]) {
  typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
  Half halves[2];
  std::memcpy(halves, &v, sizeof v);
  for (int i = 0; i < 2; ++i) parts[i] = __builtin_convertvector(halves[i], VectorD);
}

// The sum of the lanes, in double.
PYKERNELS_INLINE double wide_sum(VectorD v) { return sum(v); }
PYKERNELS_INLINE double wide_sum(VectorF v) {
  VectorD parts[2];
  widen(v, parts);
  return sum(parts[0] + parts[1]);
}

// The largest lane; no lane may be NaN.
template <class T> PYKERNELS_INLINE T max_lane(Vector<T> v) {
  T best = v[0];
  for (int lane = 1; lane < kLanes<T>; ++lane) best = v[lane] > best ? v[lane] : best;
  return best;
}
#if defined(__AVX512F__)
template <> inline float max_lane<float>(VectorF v) { return _mm512_reduce_max_ps((__m512)v); }
template <> inline double max_lane<double>(VectorD v) { return _mm512_reduce_max_pd((__m512d)v); }
#endif

// For eight vectors: out[k] += the sum of v[k]'s lanes, and out[k] = the largest of them, of which none may
// be NaN.
template <class T> PYKERNELS_INLINE void add_lane_sums(const Vector<T> (&v)[8], T* out) {
  for (int k = 0; k < 8; ++k) out[k] += sum(v[k]);
}
template <class T> PYKERNELS_INLINE void lane_maxima(const Vector<T> (&v)[8], T* out) {
  for (int k = 0; k < 8; ++k) out[k] = max_lane<T>(v[k]);
}
#if defined(__AVX512F__)
// Three rounds of "interleave two vectors and join" leave, in one vector, two partial results of each of the
// eight; the whole results then stand in lanes 0, 4, 8, 12, 2, 6, 10 and 14.
template <class Join>
PYKERNELS_INLINE void join_lanes(const VectorF (&v)[8], const Join& join, float (&joined)[16]) {
  __m512 half[4], quarter[2];
  // Unrolled early, or the eight vectors would be kept in memory for it.
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const __m512 a = (__m512)v[2 * k], b = (__m512)v[2 * k + 1];
    half[k] = join(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  }
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k)
    quarter[k] = join(_mm512_shuffle_f32x4(half[2 * k], half[2 * k + 1], 0x88),
                      _mm512_shuffle_f32x4(half[2 * k], half[2 * k + 1], 0xdd));
  const __m512 pairs =
      join(_mm512_shuffle_ps(quarter[0], quarter[1], 0x44), _mm512_shuffle_ps(quarter[0], quarter[1], 0xee));
  _mm512_storeu_ps(joined, join(pairs, _mm512_permute_ps(pairs, 0xb1)));
}
PYKERNELS_INLINE void add_lane_sums(const VectorF (&v)[8], float* out) {
  float sums[16];
  join_lanes(v, [](__m512 a, __m512 b) { return a + b; }, sums);
  for (int k = 0; k < 8; ++k) out[k] += sums[4 * (k % 4) + 2 * (k / 4)];
}
PYKERNELS_INLINE void lane_maxima(const VectorF (&v)[8], float* out) {
  float maxima[16];
  join_lanes(v, [](__m512 a, __m512 b) { return _mm512_max_ps(a, b); }, maxima);
  for (int k = 0; k < 8; ++k) out[k] = maxima[4 * (k % 4) + 2 * (k / 4)];
}
#endif

// Four numbers, whatever the instruction set: the unit in which rows of memory become lanes and back.
template <class T> struct QuadOf;
template <> struct QuadOf<float> {
  typedef float type __attribute__((vector_size(16)));
};
template <> struct QuadOf<double> {
  typedef double type __attribute__((vector_size(32)));
};
template <class T> using Quad = typename QuadOf<T>::type;

// Eight numbers side by side, one for each row of a group.
template <class T> struct OctetOf;
template <> struct OctetOf<float> {
  typedef float type __attribute__((vector_size(32)));
};
template <> struct OctetOf<double> {
  typedef double type __attribute__((vector_size(64)));
};
template <class T> using Octet = typename OctetOf<T>::type;

template <class T> PYKERNELS_INLINE Octet<T> load_octet(const T* from) {
  Octet<T> octet;
  std::memcpy(&octet, from, sizeof octet);
  return octet;
}

// to[j][i] = from[i][j] for 0 <= i, j < 4.
template <class T> PYKERNELS_INLINE void transpose4(const T* const (&from)[4], T* const (&to)[4]) {
  Quad<T> row[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&row[i], from[i], sizeof row[i]);
  const Quad<T> low01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5),
                high01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
  const Quad<T> low23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5),
                high23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
  const Quad<T> column[4] = {__builtin_shufflevector(low01, low23, 0, 1, 4, 5),
                             __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
                             __builtin_shufflevector(high01, high23, 0, 1, 4, 5),
                             __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
  for (int j = 0; j < 4; ++j) std::memcpy(to[j], &column[j], sizeof column[j]);
}

// Elements first .. first + 3 of kLanes arrays, side by side: to[j * kLanes + lane] = from[lane][first + j].
template <class T>
PYKERNELS_INLINE void gather_quads(const T* const (&from)[kLanes<T>], int64_t first, T* to) {
  if constexpr (kLanes<T> >= 4) {
    for (int lane = 0; lane < kLanes<T>; lane += 4) {
      T* const at = to + lane;
      const T* const* const of = from + lane;
      transpose4<T>({of[0] + first, of[1] + first, of[2] + first, of[3] + first},
                    {at, at + kLanes<T>, at + 2 * kLanes<T>, at + 3 * kLanes<T>});
    }
  } else {
    for (int j = 0; j < 4; ++j)
      for (int lane = 0; lane < kLanes<T>; ++lane) to[j * kLanes<T> + lane] = from[lane][first + j];
  }
}
#if defined(__AVX512F__)
// Four quads to a vector, so that one shuffle serves sixteen arrays.
PYKERNELS_INLINE void gather_quads(const float* const (&from)[16], int64_t first, float* to) {
  __m512 row[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    row[i] = _mm512_castps128_ps512(_mm_loadu_ps(from[i] + first));
    row[i] = _mm512_insertf32x4(row[i], _mm_loadu_ps(from[i + 4] + first), 1);
    row[i] = _mm512_insertf32x4(row[i], _mm_loadu_ps(from[i + 8] + first), 2);
    row[i] = _mm512_insertf32x4(row[i], _mm_loadu_ps(from[i + 12] + first), 3);
  }
  const __m512d low01 = (__m512d)_mm512_unpacklo_ps(row[0], row[1]);
  const __m512d low23 = (__m512d)_mm512_unpacklo_ps(row[2], row[3]);
  const __m512d high01 = (__m512d)_mm512_unpackhi_ps(row[0], row[1]);
  const __m512d high23 = (__m512d)_mm512_unpackhi_ps(row[2], row[3]);
  store<float>(to, (VectorF)_mm512_unpacklo_pd(low01, low23));
  store<float>(to + 16, (VectorF)_mm512_unpackhi_pd(low01, low23));
  store<float>(to + 32, (VectorF)_mm512_unpacklo_pd(high01, high23));
  store<float>(to + 48, (VectorF)_mm512_unpackhi_pd(high01, high23));
}
#endif

// Horner's rule; coefficients from the highest power down.
template <class T, int N> PYKERNELS_INLINE Vector<T> polynomial(Vector<T> x, const T (&coefficients)[N]) {
  Vector<T> p = splat(coefficients[0]);
#pragma GCC unroll 16
  for (int i = 1; i < N; ++i) p = fma(p, x, splat(coefficients[i]));
  return p;
}

// Splits positive normal numbers: x = m * 2^e with m in [sqrt(1/2), sqrt(2)); returns e and leaves m in x.
template <class T> PYKERNELS_INLINE Vector<T> split_exponent(Vector<T>& x) {
  constexpr int shift = Float<T>::mantissa_bits;
  const Bits<T> one = (Bits<T>)splat(static_cast<T>(1));
  constexpr auto mantissa = static_cast<typename Float<T>::integer>((int64_t(1) << shift) - 1);
  const Bits<T> e = ((Bits<T>)x >> shift) - Float<T>::bias;
  Vector<T> m = (Vector<T>)(((Bits<T>)x & mantissa) | one);
  const Bits<T> high = m > splat(static_cast<T>(1.41421356237309504880));
  m = high ? m * static_cast<T>(0.5) : m;
  x = m;
  return __builtin_convertvector(e - high, Vector<T>);
}

// log2 of m in [sqrt(1/2), sqrt(2)): the series of atanh in (m - 1) / (m + 1).
template <class T> PYKERNELS_INLINE Vector<T> log2_mantissa(Vector<T> m) {
  static constexpr T c[] = {T(1) / 23, T(1) / 21, T(1) / 19, T(1) / 17, T(1) / 15, T(1) / 13,
                            T(1) / 11, T(1) / 9,  T(1) / 7,  T(1) / 5,  T(1) / 3,  T(1)};
  const Vector<T> t = (m - static_cast<T>(1)) / (m + static_cast<T>(1));
  return polynomial<T>(t * t, c) * t * static_cast<T>(2.88539008177792681472);
}

}  // namespace
}  // namespace pykernels
