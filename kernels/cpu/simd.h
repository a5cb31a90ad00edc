// Vectors of the widest registers that the compiler was told to use, and tanh and sigmoid on them.
//
// Written with the vector extensions of GCC and Clang, which compile for x86-64 and arm64 alike; other
// compilers, and those told SURROGATE_SCALAR, get vectors of one number. C++11. Correct under -ffast-math
// for finite numbers; with it, as everywhere, NaN may become any number.
#ifndef SURROGATE_SIMD_H
#define SURROGATE_SIMD_H

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace surrogate {

#if defined(__GNUC__)
#define SURROGATE_INLINE inline __attribute__((always_inline))
#else
#define SURROGATE_INLINE inline
#endif

// Accumulators: the number of registers for a product's sums; the rest hold operands.
#if defined(SURROGATE_SCALAR)
constexpr int kVectorBytes = 8, kAccumulators = 8;
#elif defined(__AVX512F__)
constexpr int kVectorBytes = 64, kAccumulators = 24;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kAccumulators = 12;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kAccumulators = 24;
#else
constexpr int kVectorBytes = 16, kAccumulators = 8;
#endif

#if defined(__GNUC__) && !defined(SURROGATE_SCALAR)

template <class T>
struct Vector {
  static constexpr int lanes = kVectorBytes / int(sizeof(T));
  typedef T type __attribute__((vector_size(kVectorBytes)));
  typedef T loose __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
  static SURROGATE_INLINE type load(const T *from) { return *reinterpret_cast<const loose *>(from); }
  static SURROGATE_INLINE void store(T *to, type v) { *reinterpret_cast<loose *>(to) = v; }
  // Minus zero, not plus: compilers can drop adding -0, but not adding 0, which turns -0 into 0.
  static SURROGATE_INLINE type fill(T value) { return value - type(); }
  static SURROGATE_INLINE T get(const type &v, int lane) { return v[lane]; }
  static SURROGATE_INLINE void set(type &v, int lane, T value) { v[lane] = value; }
};

#else

template <class T>
struct Vector {
  static constexpr int lanes = 1;
  typedef T type;
  static SURROGATE_INLINE type load(const T *from) { return *from; }
  static SURROGATE_INLINE void store(T *to, type v) { *to = v; }
  static SURROGATE_INLINE type fill(T value) { return value; }
  static SURROGATE_INLINE T get(const type &v, int) { return v; }
  static SURROGATE_INLINE void set(type &v, int, T value) { v = value; }
};

#endif

// A number in the precision of `of`: compilers refuse to mix vectors of float with double literals.
SURROGATE_INLINE Vector<float>::type number(const Vector<float>::type &, double value) {
  return Vector<float>::fill(float(value));
}
SURROGATE_INLINE Vector<double>::type number(const Vector<double>::type &, double value) {
  return Vector<double>::fill(value);
}

template <class V>
struct Fraction {
  V top, bottom;
};

// float32: x P(x^2) / Q(x^2), fitted to tanh on [-9, 9] for the smallest maximum relative error, which
// is 2e-8 before rounding and 3.3e-7 with it (4e-7 without fused multiply-add). There is no
// cancellation, so reassociation is harmless. A NaN stays a NaN: both comparisons are false for it.
SURROGATE_INLINE Fraction<Vector<float>::type> tanh_fraction(Vector<float>::type x) {
  typedef Vector<float> F;
  typedef F::type V;
  const V bound = F::fill(9.0f);
  x = x > bound ? bound : x;
  x = x < -bound ? -bound : x;
  const V y = x * x;
  V p = y * 1.33533918e-08f + 2.06081694e-05f;
  V q = y * 7.77603843e-07f + 3.28554479e-04f;
  p = p * y + 3.4955336e-03f;
  q = q * y + 2.58767765e-02f;
  p = p * y + 1.33809804e-01f;
  q = q * y + 4.6714296e-01f;
  p = p * y + 9.9999998e-01f;
  q = q * y + 1.0f;
  const Fraction<V> fraction = {x * p, q};
  return fraction;
}

// float64 is for checks, not for speed: the C library, lane by lane.
SURROGATE_INLINE Fraction<Vector<double>::type> tanh_fraction(Vector<double>::type x) {
  typedef Vector<double> D;
  for (int lane = 0; lane < D::lanes; ++lane) D::set(x, lane, std::tanh(D::get(x, lane)));
  const Fraction<D::type> fraction = {x, D::fill(1)};
  return fraction;
}

template <class V>
SURROGATE_INLINE V tanh_of(V x) {
  const Fraction<V> tanh = tanh_fraction(x);
  return tanh.top / tanh.bottom;
}

template <class V>
SURROGATE_INLINE V sigmoid_of(V x) {
  return tanh_of(x * 0.5f) * 0.5f + 0.5f;
}

}  // namespace surrogate

#endif
