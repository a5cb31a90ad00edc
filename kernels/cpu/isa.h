// Which build of the kernels this CPU runs. Uses baseline instructions only, because it runs first.
#ifndef SURROGATE_ISA_H
#define SURROGATE_ISA_H

namespace surrogate {

// The highest level, by the names in kernels/cpu/__init__.py, whose instructions CPU and operating
// system support. x86-64 psABI, table 3.1; CPUs with the features that are tested here have the rest
// of v3 and v4, whose names older compilers do not know.
inline const char *best_level() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  return v4 ? "x86-64-v4" : v3 ? "x86-64-v3" : "x86-64";
#elif defined(__x86_64__) || defined(_M_X64)
  return "x86-64";
#elif defined(__aarch64__) || defined(_M_ARM64)
  return "arm64";
#else
  return "generic";
#endif
}

}  // namespace surrogate

#endif
