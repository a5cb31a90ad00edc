// The code that C++ standalone programs of Brian2 need for a surrogate besides the kernels; the
// counterpart of step.py.
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

#include "../kernels/cpu/poisson.h"
#include "../kernels/cpu/stack.h"

namespace surrogate {

// The models of one group: one for all neurons, or one for each.
template <class T>
class Population {
 public:
  // The population with these weights, made on the first call. Each run() of a program has generated
  // code of its own; all of them use the same population.
  static const Population &of(const T *weights, int cell, bool linear_head, int input_size,
                              int layers, const int *hidden_sizes, int models,
                              const BranchPattern &pattern) {
    static std::map<const T *, Population *> made;
    Population *&population = made[weights];
    if (!population)
      population =
          new Population(weights, cell, linear_head, input_size, layers, hidden_sizes, models, pattern);
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
             const int *hidden_sizes, int models, const BranchPattern &pattern)
      : stack_(cell, linear_head, input_size, layers, hidden_sizes, models, pattern) {
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
      arrivals[group] += std::max<int>(row[channel], 0);
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

// Which logits reach the level for the first time since they were below the lower one.
inline void find_rises(int neurons, const double *logit, const double *level,
                       const double *low_level, char *high, char *rose) {
  for (int n = 0; n < neurons; ++n) {
    const bool reaches = logit[n] >= level[n];
    rose[n] = reaches && !high[n];
    high[n] = reaches || (high[n] && logit[n] >= low_level[n]);
  }
}

// Numbers of the logistic distribution that depend on seed, step and neuron alone.
inline void logistic(uint64_t seed, int64_t step, int neurons, double *numbers) {
  for (int n = 0; n < neurons; ++n) {
    uint32_t c[4] = {uint32_t(n), uint32_t(step), uint32_t(uint64_t(step) >> 32), 0};
    philox(c, seed);
    const double u = ((c[0] >> 5) * 67108864.0 + (c[1] >> 6)) / 9007199254740992.0;
    numbers[n] = std::log(u) - std::log1p(-u);
  }
}

// The background of all neurons on one group of channels, on all threads.
inline void add_background(const PoissonChannels &channels, int64_t step, int neurons,
                           const double *rate, int inputs, int16_t *counts) {
#ifdef _OPENMP
#pragma omp parallel
  {
    const int threads = omp_get_num_threads(), thread = omp_get_thread_num();
    add_poisson(channels, step, int(int64_t(neurons) * thread / threads),
                int(int64_t(neurons) * (thread + 1) / threads), rate, inputs, counts);
  }
#else
  add_poisson(channels, step, 0, neurons, rate, inputs, counts);
#endif
}

// The recorded spikes of the bin that a step closes: index[begins[b]] to index[begins[b + 1]] in bin b.
inline void add_recorded(const int64_t *index, const int64_t *begins, int64_t bins, bool repeats,
                         int64_t step, int16_t *counts) {
  const int64_t closed = repeats ? (step - 1) % bins : step - 1;
  if (closed >= bins) return;
  for (int64_t s = begins[closed]; s < begins[closed + 1]; ++s) ++counts[index[s]];
}

}  // namespace surrogate

#endif
