// Treats numbers below the smallest normal one as zeros.
//
// Gradients that vanish through many layers and steps, and states that decay without input, become so
// small. Processors compute with such numbers many times more slowly: a stack of six tanh layers trains
// at a third of its speed. Such small numbers do not change a result.
#ifndef SURROGATE_SUBNORMAL_H
#define SURROGATE_SUBNORMAL_H

#include <cstdint>

#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace surrogate {

#if defined(__SSE2__) || defined(_M_X64)
typedef unsigned FloatControl;
constexpr FloatControl kSubnormalsAreZero = 0x8040;  // flush to zero, denormals are zero
inline FloatControl float_control() { return _mm_getcsr(); }
inline void set_float_control(FloatControl control) { _mm_setcsr(control); }
#elif defined(__aarch64__) && defined(__GNUC__)
typedef uint64_t FloatControl;
constexpr FloatControl kSubnormalsAreZero = FloatControl(1) << 24;
inline FloatControl float_control() {
  FloatControl control;
  __asm__ volatile("mrs %0, fpcr" : "=r"(control));
  return control;
}
inline void set_float_control(FloatControl control) {
  __asm__ volatile("msr fpcr, %0" : : "r"(control));
}
#else
typedef unsigned FloatControl;
constexpr FloatControl kSubnormalsAreZero = 0;
inline FloatControl float_control() { return 0; }
inline void set_float_control(FloatControl) {}
#endif

// For this thread, during the object's life; then the caller's setting is restored.
class SubnormalsAreZero {
 public:
  SubnormalsAreZero() : before_(float_control()) { set(before_ | kSubnormalsAreZero); }
  ~SubnormalsAreZero() { set(before_); }
  SubnormalsAreZero(const SubnormalsAreZero &) = delete;
  SubnormalsAreZero &operator=(const SubnormalsAreZero &) = delete;

 private:
  // No load or store may cross it, nor anything that needs one.
  static void set(FloatControl control) {
    barrier();
    set_float_control(control);
    barrier();
  }
  static void barrier() {
#if defined(__GNUC__)
    __asm__ volatile("" : : : "memory");
#endif
  }

  const FloatControl before_;
};

}  // namespace surrogate

#endif
