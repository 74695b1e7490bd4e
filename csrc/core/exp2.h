// 2^x for vectors of x below the overflow of T: 2^-inf = 0, NaN stays NaN, results under the normal range may
// be flushed to 0. It comes as a product, scale * fraction, so that whoever sums such numbers, or
// multiplies them by something known, needs no instruction for that. The relative error is 1e-7 (float) and
// 2e-16 (double); 2^x is exact for integers.
#pragma once

#include "core/simd.h"

namespace pykernels {
namespace {

template <class T> struct PowerOfTwo {
  Vector<T> scale;
  Vector<T> rest;  // fraction = 2^rest, for which Exp2<T> has a polynomial
};

#if defined(__AVX512F__)

// x = k + j / 2^kBits + r: the table has 2^(j / 2^kBits), a polynomial 2^r, and one instruction scales by
// 2^k, k = floor(x). All rounding is downwards, so that the three parts agree. An infinite x has r = 0.
template <class T> struct Exp2;
template <> struct Exp2<float> {
  static constexpr int kBits = 5;
  alignas(64) static constexpr float table[32] = {
      1.0f,        1.02189715f, 1.04427378f, 1.0671404f,  1.09050773f, 1.11438674f, 1.13878863f, 1.16372486f,
      1.18920712f, 1.21524736f, 1.24185781f, 1.26905096f, 1.29683955f, 1.32523664f, 1.35425555f, 1.38390988f,
      1.41421356f, 1.44518081f, 1.47682615f, 1.50916443f, 1.54221083f, 1.57598085f, 1.61049033f, 1.64575548f,
      1.68179283f, 1.7186193f,  1.75625216f, 1.79470908f, 1.83400809f, 1.87416763f, 1.91520656f, 1.95714412f};
  // Minimax with p(0) = 1, as for the others here.
  static constexpr float polynomial[] = {0.242652696f, 0.693123732f, 1.0f};
};
template <> struct Exp2<double> {
  static constexpr int kBits = 4;
  alignas(64) static constexpr double table[16] = {1.0,
                                                   1.04427378242741384,
                                                   1.09050773266525766,
                                                   1.13878863475669165,
                                                   1.18920711500272107,
                                                   1.24185781207348405,
                                                   1.29683955465100967,
                                                   1.35425554693689273,
                                                   1.41421356237309505,
                                                   1.47682614593949931,
                                                   1.54221082540794082,
                                                   1.61049033194925431,
                                                   1.68179283050742909,
                                                   1.75625216037329948,
                                                   1.83400808640934246,
                                                   1.91520656139714729};
  static constexpr double polynomial[] = {1.5736283229054103100e-4,
                                          1.3330742238179969422e-3,
                                          9.6181408031339019502e-3,
                                          5.5504108419540639172e-2,
                                          2.4022650696146327049e-1,
                                          6.9314718055993774108e-1,
                                          1.0};
};

PYKERNELS_INLINE PowerOfTwo<float> power_of_two(VectorF x) {
  using Roots = Exp2<float>;
  constexpr int kDown = _MM_FROUND_TO_NEG_INF;
  const __m512 grid = _mm512_set1_ps(Float<float>::round_to_int / (1 << Roots::kBits));
  const __m512i j = (__m512i)_mm512_add_round_ps((__m512)x, grid, kDown | _MM_FROUND_NO_EXC);  // low bits
  const VectorF r = (VectorF)_mm512_reduce_ps((__m512)x, Roots::kBits << 4 | kDown);
  const __m512 root =
      _mm512_permutex2var_ps((__m512)load(Roots::table), j, (__m512)load(Roots::table + kLanes<float>));
  return {(VectorF)_mm512_scalef_ps(root, (__m512)x), r};
}
PYKERNELS_INLINE PowerOfTwo<double> power_of_two(VectorD x) {
  using Roots = Exp2<double>;
  constexpr int kDown = _MM_FROUND_TO_NEG_INF;
  const __m512d grid = _mm512_set1_pd(Float<double>::round_to_int / (1 << Roots::kBits));
  const __m512i j = (__m512i)_mm512_add_round_pd((__m512d)x, grid, kDown | _MM_FROUND_NO_EXC);
  const VectorD r = (VectorD)_mm512_reduce_pd((__m512d)x, Roots::kBits << 4 | kDown);
  const __m512d root =
      _mm512_permutex2var_pd((__m512d)load(Roots::table), j, (__m512d)load(Roots::table + kLanes<double>));
  return {(VectorD)_mm512_scalef_pd(root, (__m512d)x), r};
}

#else

template <class T> struct Exp2;
template <> struct Exp2<float> {
  static constexpr float polynomial[] = {1.3264729e-3f, 9.6715126e-3f, 5.5507337e-2f,
                                         2.4022242e-1f, 6.9314698e-1f, 1.0f};
};
template <> struct Exp2<double> {
  static constexpr double polynomial[] = {
      4.4347689312120690005e-10, 7.0737831792200067776e-9, 1.0178199586480372198e-7, 1.3215435282714077342e-6,
      1.5252733493096279273e-5,  1.5403530457111286711e-4, 1.3333558146774648301e-3, 9.6181291075941207071e-3,
      5.5504108664820083134e-2,  2.4022650695910131259e-1, 6.9314718055994532581e-1, 1.0};
};

// The integer nearest to x, and with it the exponent field of the scale, lands in the low bits of a sum. At
// the clamp that field is 0, and so is the scale.
template <class T> PYKERNELS_INLINE PowerOfTwo<T> power_by_bits(Vector<T> x) {
  const Vector<T> clamp = splat(static_cast<T>(-Float<T>::bias));
  x = x < clamp ? clamp : x;
  const Vector<T> shift = splat(Float<T>::round_to_int + static_cast<T>(Float<T>::bias));
  const Vector<T> shifted = x + shift;
  return {(Vector<T>)((Bits<T>)shifted << Float<T>::mantissa_bits), x - (shifted - shift)};
}
PYKERNELS_INLINE PowerOfTwo<float> power_of_two(VectorF x) { return power_by_bits<float>(x); }
PYKERNELS_INLINE PowerOfTwo<double> power_of_two(VectorD x) { return power_by_bits<double>(x); }

#endif

template <class T> constexpr int kExp2Terms = sizeof Exp2<T>::polynomial / sizeof(T);

template <class T> PYKERNELS_INLINE Vector<T> fraction_of(const PowerOfTwo<T>& power) {
  return polynomial<T>(power.rest, Exp2<T>::polynomial);
}
// factor * fraction, for a factor that the polynomial was multiplied by: its terms are at terms[i * stride].
template <class T>
PYKERNELS_INLINE Vector<T> fraction_times(const PowerOfTwo<T>& power, const T* terms, int stride) {
  Vector<T> p = splat(terms[0]);
#pragma GCC unroll 16
  for (int i = 1; i < kExp2Terms<T>; ++i) p = fma(p, power.rest, splat(terms[i * stride]));
  return p;
}

template <class V> PYKERNELS_INLINE V exp2(V x) {
  const auto power = power_of_two(x);
  return power.scale * fraction_of(power);
}
// sum + 2^x.
template <class V> PYKERNELS_INLINE V add_exp2(V x, V sum) {
  const auto power = power_of_two(x);
  return fma(power.scale, fraction_of(power), sum);
}

}  // namespace
}  // namespace pykernels
