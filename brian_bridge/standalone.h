// The code that C++ standalone programs of Brian2 need for a surrogate besides the kernels; the
// counterpart of step.py and philox.py.
#ifndef SURROGATE_BRIAN_STANDALONE_H
#define SURROGATE_BRIAN_STANDALONE_H

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "../kernels/cpu/stack.h"

namespace surrogate {

// The models of one group: one for all neurons, or one for each.
template <class T>
class Population {
 public:
  // The population with these weights, made on the first call. Each run() of a program has generated
  // code of its own; all of them use the same population.
  static const Population &of(const T *weights, int cell, bool linear_head, int input_size,
                              int layers, const int *hidden_sizes, int models) {
    static std::map<const T *, Population *> made;
    Population *&population = made[weights];
    if (!population)
      population =
          new Population(weights, cell, linear_head, input_size, layers, hidden_sizes, models);
    return *population;
  }

  void step(int neurons, int16_t *counts, T *state, T *outputs, int64_t *lost) const {
#ifdef _OPENMP
#pragma omp parallel
    {
      const int threads = omp_get_num_threads(), thread = omp_get_thread_num();
      typename Stack<T>::Scratch scratch;
      stack_.step_counts(int(int64_t(neurons) * thread / threads),
                         int(int64_t(neurons) * (thread + 1) / threads), counts, state, outputs,
                         lost, scratch);
    }
#else
    stack_.step_counts(neurons, counts, state, outputs, lost);
#endif
  }

 private:
  Population(const T *weights, int cell, bool linear_head, int input_size, int layers,
             const int *hidden_sizes, int models)
      : stack_(cell, linear_head, input_size, layers, hidden_sizes, models) {
    for (int model = 0; model < models; ++model)
      stack_.set_weights(weights + model * stack_.parameter_count(), model);
  }

  Stack<T> stack_;
};

// Counts the arrivals at one neuron, another at each step.
inline void sample_arrivals(const int16_t *counts, int neurons, int groups, const int *bounds,
                            int64_t timestep, int64_t *arrivals) {
  const int16_t *row = counts + (timestep % neurons) * bounds[groups];
  for (int group = 0; group < groups; ++group)
    for (int channel = bounds[group]; channel < bounds[group + 1]; ++channel)
      arrivals[group] += row[channel];
  ++arrivals[groups];
}

// Outputs [neurons][2] to logit, spike probability and voltage in V; scale and offset are in mV.
template <class T, class Real>
void read_out(int neurons, const T *outputs, double scale, double offset, double *logit, Real *p,
              Real *v) {
  for (int n = 0; n < neurons; ++n) {
    logit[n] = outputs[2 * n];
    p[n] = Real(0.5 * (1 + std::tanh(0.5 * logit[n])));
    v[n] = Real((outputs[2 * n + 1] * scale + offset) * 1e-3);
  }
}

// Numbers in [0, 1) that depend on seed, step and neuron alone: Philox4x32-10, see philox.py.
inline void uniform(uint64_t seed, int64_t step, int neurons, double *numbers) {
  for (int n = 0; n < neurons; ++n) {
    uint32_t c[4] = {uint32_t(n), uint32_t(step), uint32_t(uint64_t(step) >> 32), 0};
    uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
    for (int round = 0; round < 10; ++round) {
      const uint64_t first = uint64_t(c[0]) * 0xD2511F53u, second = uint64_t(c[2]) * 0xCD9E8D57u;
      c[0] = uint32_t(second >> 32) ^ c[1] ^ key[0];
      c[1] = uint32_t(second);
      c[2] = uint32_t(first >> 32) ^ c[3] ^ key[1];
      c[3] = uint32_t(first);
      key[0] += 0x9E3779B9u;
      key[1] += 0xBB67AE85u;
    }
    numbers[n] = ((c[0] >> 5) * 67108864.0 + (c[1] >> 6)) / 9007199254740992.0;
  }
}

}  // namespace surrogate

#endif
