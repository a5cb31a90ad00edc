// The input stage of leaky traces: which channels feed which branch, and the traces of one neuron.
//
// Equations: kernels/branches.py. Spikes cost one addition for each connection of their channel.
#ifndef SURROGATE_BRANCHES_H
#define SURROGATE_BRANCHES_H

#include <cstring>
#include <vector>

#include "events.h"

namespace surrogate {

// The channels of branch b are the next sizes[b] entries of `channels`. count 0: no such stage.
struct BranchPattern {
  int count;
  const int *sizes, *channels;
  bool saturate;
};

// Parameters of the stage, or their gradients: signed weights in the order of `channels`, and the share of a
// trace that is kept per step.
template <class T>
struct BranchParameters {
  T *weight, *kept;
};

template <class T>
class Branches {
 public:
  static constexpr int lanes = Vector<T>::lanes;
  const int count, padded;  // `padded` is rounded up to whole vectors
  const bool saturate;

  Branches(const BranchPattern &pattern, int channels)
      : count(pattern.count), padded((count + lanes - 1) / lanes * lanes), saturate(pattern.saturate) {
    if (!count) return;
    first_.assign(size_t(channels) + 1, 0);
    each(pattern, [&](int, int channel, int) { ++first_[channel + 1]; });
    for (int c = 0; c < channels; ++c) first_[c + 1] += first_[c];
    std::vector<int32_t> next(first_.begin(), first_.end() - 1);
    branch_.resize(first_[channels]);
    place_.resize(first_[channels]);
    each(pattern, [&](int branch, int channel, int index) {
      branch_[next[channel]] = int16_t(branch);
      place_[index] = next[channel]++;
    });
  }

  size_t connections() const { return place_.size(); }
  // Numbers that the weights take, by channel; kept() lies behind them.
  size_t size() const { return aligned() + padded; }

  void pack(const BranchParameters<T> &canonical, T *packed) const {
    std::memset(packed, 0, size() * sizeof(T));
    for (size_t i = 0; i < place_.size(); ++i) packed[place_[i]] = canonical.weight[i];
    std::memcpy(packed + aligned(), canonical.kept, count * sizeof(T));
  }
  void unpack(const T *packed, const BranchParameters<T> &canonical) const {
    for (size_t i = 0; i < place_.size(); ++i) canonical.weight[i] = packed[place_[i]];
    std::memcpy(canonical.kept, packed + aligned(), count * sizeof(T));
  }

  // The traces after a bin whose events are those of `row`; `before` may be `after`.
  SURROGATE_INLINE void advance(Events events, size_t row, const T *packed, const T *before, T *after) const {
    typedef Vector<T> F;
    const T *kept = packed + aligned();
    for (int i = 0; i < padded; i += lanes)
      F::store(after + i, F::load(kept + i) * F::load(before + i));
    const int32_t *first = first_.data();
    const int16_t *branch = branch_.data();
    for (int32_t e = events.row_ptr[row]; e < events.row_ptr[row + 1]; ++e) {
      const int channel = events.channel[e];
      for (int32_t k = first[channel]; k < first[channel + 1]; ++k) after[branch[k]] += packed[k];
    }
  }

  // What the first layer sees of the traces.
  SURROGATE_INLINE void show(const T *traces, T *shown) const {
    typedef Vector<T> F;
    for (int i = 0; i < padded; i += lanes) {
      const typename F::type s = F::load(traces + i);
      F::store(shown + i, saturate ? tanh_of(s) : s);
    }
  }

  // grad: in, the gradient of what is shown; out, of the traces after the bin. carry: in, of those traces
  // from later bins; out, of the traces before the bin. `packed_grad` grows.
  void retreat(Events events, size_t row, const T *packed, const T *before, const T *shown, T *grad, T *carry,
               T *packed_grad) const {
    typedef Vector<T> F;
    const T *kept = packed + aligned();
    T *grad_kept = packed_grad + aligned();
    for (int i = 0; i < padded; i += lanes) {
      const typename F::type y = F::load(shown + i);
      typename F::type ds = F::load(grad + i);
      if (saturate) ds *= 1.0f - y * y;
      ds += F::load(carry + i);
      F::store(grad + i, ds);
      F::store(carry + i, ds * F::load(kept + i));
      F::store(grad_kept + i, F::load(grad_kept + i) + ds * F::load(before + i));
    }
    for (int32_t e = events.row_ptr[row]; e < events.row_ptr[row + 1]; ++e) {
      const int channel = events.channel[e];
      for (int32_t k = first_[channel]; k < first_[channel + 1]; ++k) packed_grad[k] += grad[branch_[k]];
    }
  }

 private:
  size_t aligned() const { return (place_.size() + 15) / 16 * 16; }
  // Calls visit(branch, channel, index) for each connection in canonical order.
  template <class Visit>
  static void each(const BranchPattern &pattern, const Visit &visit) {
    int index = 0;
    for (int branch = 0; branch < pattern.count; ++branch)
      for (int i = 0; i < pattern.sizes[branch]; ++i, ++index) visit(branch, pattern.channels[index], index);
  }

  std::vector<int32_t> first_, place_;  // of a channel's connections; where the i-th canonical one lies
  std::vector<int16_t> branch_;
};

}  // namespace surrogate

#endif
