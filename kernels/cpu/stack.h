// A stack of recurrent layers for spike events: packed weights, and one step for many neurons.
//
// What it computes is defined by kernels/reference.py. The same header is compiled into the Python
// extension and into programs that Brian2 generates.
#ifndef SURROGATE_STACK_H
#define SURROGATE_STACK_H

#include <vector>

#include "cells.h"
#include "events.h"
#include "last_layer.h"
#include "layer.h"
#include "memory.h"
#include "product.h"
#include "subnormal.h"

namespace surrogate {

// One layer's packed weights inside a model's.
template <class T>
struct Packed {
  const T *input, *hidden, *bias;
};

template <class T>
class Stack {
 public:
  // arch: 0 rnn, 1 gru, 2 lstm. hidden_sizes has `layers` entries; with a linear head the last is the
  // head's. With models > 1 there are so many sets of weights, one for each neuron.
  Stack(int arch, bool linear_head, int input_size, int layers, const int *hidden_sizes,
        int models = 1)
      : models_(models), state_size_(0), parameter_count_(0), model_size_(0), widest_(0), last_(false),
        last_start_(0) {
    int inputs = input_size;
    for (int l = 0; l < layers; ++l) {
      const bool linear = linear_head && l == layers - 1;
      layers_.push_back(Layer<T>(linear ? kLinear : Kind(arch), inputs, hidden_sizes[l]));
      const Layer<T> &layer = layers_.back();
      starts_.push_back(model_size_);
      model_size_ += aligned(layer.input_size()) + aligned(layer.hidden_size()) +
                     aligned(layer.bias_size());
      const long rows = long(layer.gates) * layer.units;
      parameter_count_ += rows * (layer.inputs + 1);
      if (!linear) {
        parameter_count_ += rows * (layer.units + 1);
        state_size_ += layer.units * (arch == kLstm ? 2 : 1);
      }
      if (layer.padded > widest_) widest_ = layer.padded;
      inputs = hidden_sizes[l];
    }
    last_ = layers > 1 && LastLayer<T>::serves(layers_.back());
    last_start_ = model_size_;
    if (last_) model_size_ += aligned(LastLayer<T>::weights_size(layers_.back()));
    weights_.zeros(model_size_ * models);
    block_ = models > 1 ? 1 : model_size_ * sizeof(T) > kCache ? kWideBlock : kBlock;
  }

  int state_size() const { return state_size_; }
  long parameter_count() const { return parameter_count_; }
  int input_size() const { return layers_[0].inputs; }
  const std::vector<Layer<T> > &layers() const { return layers_; }

  // Splits canonical parameters, concatenated in order, into layers.
  template <class U>
  std::vector<Parameters<U> > split(U *parameters) const {
    std::vector<Parameters<U> > split;
    for (size_t l = 0; l < layers_.size(); ++l) {
      const Layer<T> &layer = layers_[l];
      const size_t rows = size_t(layer.gates) * layer.units;
      const bool linear = layer.kind == kLinear;
      Parameters<U> part = {parameters, 0, 0, 0};
      parameters += rows * layer.inputs;
      if (!linear) {
        part.weight_hh = parameters;
        parameters += rows * layer.units;
      }
      part.bias_ih = parameters;
      parameters += rows;
      if (!linear) {
        part.bias_hh = parameters;
        parameters += rows;
      }
      split.push_back(part);
    }
    return split;
  }

  // Canonical parameters of one model: per layer weight_ih, weight_hh, bias_ih, bias_hh, each row-major;
  // a linear head's weight and bias.
  void set_weights(const T *parameters, int model = 0) {
    set_weights(split(const_cast<T *>(parameters)), model);
  }

  void set_weights(const std::vector<Parameters<T> > &parameters, int model = 0) {
    T *base = weights_.data() + model_size_ * model;
    for (size_t l = 0; l < layers_.size(); ++l) {
      const Layer<T> &layer = layers_[l];
      const Parameters<T> &own = parameters[l];
      T *input = base + starts_[l];
      T *hidden = input + aligned(layer.input_size());
      T *bias = hidden + aligned(layer.hidden_size());
      const Transfer<T, false> weight_ih = {input, own.weight_ih, layer.inputs,
                                            layer.input_width()};
      layer.each_column(true, weight_ih);
      std::memset(bias, 0, layer.bias_size() * sizeof(T));
      const TransferBias<T, false> bias_ih = {bias, own.bias_ih, layer.width,
                                              layer.input.from * Layer<T>::lanes};
      layer.each_column(true, bias_ih);
      if (layer.kind == kLinear) continue;
      const Transfer<T, false> weight_hh = {hidden, own.weight_hh, layer.units,
                                            layer.hidden_width()};
      layer.each_column(false, weight_hh);
      const TransferBias<T, false> bias_hh = {bias, own.bias_hh, layer.width,
                                              layer.hidden.from * Layer<T>::lanes};
      layer.each_column(false, bias_hh);
    }
    if (last_) {
      const Packed<T> own = packed(layers_.size() - 1, model);
      LastLayer<T>::pack(layers_.back(), own.input, own.hidden, own.bias, base + last_start_);
    }
  }

  Packed<T> packed(size_t l, int model = 0) const {
    const T *input = weights_.data() + model_size_ * model + starts_[l];
    const T *hidden = input + aligned(layers_[l].input_size());
    const Packed<T> own = {input, hidden, hidden + aligned(layers_[l].hidden_size())};
    return own;
  }

  // Working memory of the steps; each thread that steps at the same time needs its own.
  class Scratch {
   public:
    Buffer<T> gates, hidden, memory, last;
    Buffer<int16_t> channel, group, word;
    Buffer<int32_t> row_ptr;
  };

  // Advances neurons `first` to `last - 1`. Neuron n's active channels, ascending and unique, are
  // channel[row_ptr[n]] to channel[row_ptr[n + 1] - 1]. state is [neurons][state_size()], layers in
  // order, h then c; outputs is [neurons][2].
  void step_events(int first, int last, const int16_t *channel, const int32_t *row_ptr, T *state,
                   T *outputs, Scratch &scratch) const {
    const SubnormalsAreZero subnormals;
    scratch.gates.reserve(size_t(block_) * 4 * kVectorBytes);
    // Lanes beyond the last unit never reach another lane, but numbers near zero would slow them down. What
    // tells that all of it is there comes last, for memory may run out on the way.
    if (!scratch.memory.data()) {
      if (last_) scratch.last.zeros(LastLayer<T>::memory_size(block_));
      scratch.hidden.zeros(size_t(block_) * widest_ * 3);
      scratch.memory.zeros(size_t(block_) * widest_);
    }
    for (int n = first; n < last; n += block_) {
      const int rows = last - n < block_ ? last - n : block_;
      step_block(models_ > 1 ? n : 0, rows, channel, row_ptr + n, state + size_t(n) * state_size_,
                 outputs + size_t(n) * 2, scratch);
    }
  }

  // The same for spike counts [neurons][input_size()], signed integers of 16 or 32 bits, which are set to
  // zero. A channel with one spike or more is active; lost[n] grows by the spikes beyond the first of each
  // channel.
  template <class Count>
  void step_counts(int first, int last, Count *counts, T *state, T *outputs, int64_t *lost,
                   Scratch &scratch) const {
    const int inputs = input_size(), most = models_ > 1 ? kBlock : block_;
    scratch.channel.reserve(size_t(most) * inputs);
    scratch.row_ptr.reserve(size_t(most) + 1);
    for (int n = first; n < last; n += most) {
      const int end = last - n < most ? last : n + most;
      int32_t *row_ptr = scratch.row_ptr.data();
      row_ptr[0] = 0;
      for (int i = n; i < end; ++i)
        row_ptr[i - n + 1] =
            row_ptr[i - n] + take_events(counts + size_t(i) * inputs, inputs,
                                         scratch.channel.data() + row_ptr[i - n], lost + i, scratch);
      step_events(n, end, scratch.channel.data(), row_ptr - n, state, outputs, scratch);
    }
  }

  void step_events(int neurons, const int16_t *channel, const int32_t *row_ptr, T *state,
                   T *outputs) const {
    step_events(0, neurons, channel, row_ptr, state, outputs, scratch_);
  }
  template <class Count>
  void step_counts(int neurons, Count *counts, T *state, T *outputs, int64_t *lost) const {
    step_counts(0, neurons, counts, state, outputs, lost, scratch_);
  }

 private:
  // Neurons that share one sweep through the weights: so few that their sums stay in the first-level
  // cache or, where the weights do not fit the second, more, so that each panel is fetched less often.
  static constexpr int kBlock = 48, kWideBlock = 288;
  static constexpr size_t kCache = size_t(2) << 20;
  // Words of counts that are looked at together for spikes, and how many bytes ahead memory is asked for them.
  static constexpr int kGroupWords = 4;
  static constexpr size_t kAhead = 4096;

  static size_t aligned(size_t size) { return (size + 15) / 16 * 16; }

  // Lists the channels of one neuron that have spikes, clears their counts, counts what repeats. No
  // processor can predict which channel has a spike, so hardly anything branches on it: from groups of
  // counts to words of 64 bits, each pass writes down every place and keeps those that are not silent.
  template <class Count>
  static int32_t take_events(Count *counts, int inputs, int16_t *channel, int64_t *lost,
                             Scratch &scratch) {
    constexpr int in_word = 8 / int(sizeof(Count)), in_group = kGroupWords * in_word;
    int16_t *group = scratch.group.reserve(size_t(inputs) / in_group + 1);
    int16_t *word = scratch.word.reserve(size_t(inputs) / in_word + 1);
    int groups = 0, words = 0, from = 0;
    for (; from + in_group <= inputs; from += in_group) {
      prefetch(counts + from, kAhead);
      uint64_t any = 0;
      for (int i = 0; i < in_group; i += in_word) any |= word_of(counts + from + i);
      group[groups] = int16_t(from);
      groups += any != 0;
    }
    for (int g = 0; g < groups; ++g)
      for (int i = group[g]; i < group[g] + in_group; i += in_word) {
        word[words] = int16_t(i);
        words += word_of(counts + i) != 0;
      }
    int32_t found = 0;
    int64_t repeats = 0;
    for (int w = 0; w < words; ++w) take_word(counts, word[w], channel, found, repeats);
    for (; from < inputs; ++from) take_count(counts, from, channel, found, repeats);
    *lost += repeats;
    return found;
  }
  template <class Count>
  static SURROGATE_INLINE uint64_t word_of(const Count *counts) {
    uint64_t word;
    std::memcpy(&word, counts, sizeof word);
    return word;
  }
  template <class Count>
  static SURROGATE_INLINE void take_word(Count *counts, int from, int16_t *channel, int32_t &found,
                                         int64_t &repeats) {
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    // One spike in most words that have any, so this loop, unlike the place of the spike, is predicted.
    constexpr int bits = 8 * int(sizeof(Count));
    for (uint64_t left = word_of(counts + from); left;) {
      const int i = __builtin_ctzll(left) / bits;
      left &= ~(((uint64_t(1) << bits) - 1) << (i * bits));
      take_count(counts, from + i, channel, found, repeats);
    }
#else
    for (int i = 0; i < 8 / int(sizeof(Count)); ++i)
      take_count(counts, from + i, channel, found, repeats);
#endif
  }
  template <class Count>
  static SURROGATE_INLINE void take_count(Count *counts, int i, int16_t *channel, int32_t &found,
                                          int64_t &repeats) {
    const int32_t count = counts[i], active = count > 0;
    channel[found] = int16_t(i);  // stays if active
    found += active;
    repeats += active ? count - 1 : 0;
    counts[i] = 0;
  }

  // `state` and `outputs` are those of the first neuron of the block.
  void step_block(int model, int rows, const int16_t *channel, const int32_t *row_ptr, T *state,
                  T *outputs, Scratch &scratch) const {
    T *gates = scratch.gates.data(), *memory = scratch.memory.data();
    T *before = scratch.hidden.data();
    T *below = before + size_t(block_) * widest_, *after = below + size_t(block_) * widest_;
    for (size_t l = 0; l < layers_.size(); ++l) {
      const Layer<T> &layer = layers_[l];
      if (last_ && l == layers_.size() - 1) {
        const T *weights = weights_.data() + model_size_ * model + last_start_;
        LastLayer<T>::step(layer, rows, below, layers_[l - 1].padded, weights, state, state_size_,
                           scratch.last.data(), after);
        copy_rows(outputs, 2, after, 2, rows, 2);
        return;
      }
      const Packed<T> weights = packed(l, model);
      if (layer.kind == kGru) copy_rows(before, layer.padded, state, state_size_, rows, layer.units);
      if (layer.kind == kLstm)
        copy_rows(memory, layer.padded, state + layer.units, state_size_, rows, layer.units);
      for (int p = 0; p < layer.panels; ++p) {
        const T *input = weights.input + size_t(p) * layer.inputs * layer.input_width();
        const T *bias = weights.bias + size_t(p) * layer.width;
        for (int r = 0; r < rows; ++r) {
          if (l == 0)
            sum_events(layer, channel + row_ptr[r], row_ptr[r + 1] - row_ptr[r], input, bias,
                       gates + r * layer.width);
          else
            copy(gates + r * layer.width, bias, layer.width);
        }
        if (l > 0)
          multiply(layer.input.vectors, rows, layer.inputs, below, layers_[l - 1].padded, input,
                   gates, layer.width);
        if (layer.kind != kLinear)
          multiply(layer.hidden.vectors, rows, layer.units, state, state_size_,
                   weights.hidden + size_t(p) * layer.units * layer.hidden_width(),
                   gates + layer.hidden.from * Layer<T>::lanes, layer.width);
        const size_t at = size_t(p) * layer.panel_units;
        const CellRows<T> cells = {gates,      layer.width, before + at, memory + at,
                                   after + at, memory + at, layer.padded};
        update(layer, rows, cells);
      }
      if (layer.kind != kLinear) {
        copy_rows(state, state_size_, after, layer.padded, rows, layer.units);
        state += layer.units;
      }
      if (layer.kind == kLstm) {
        copy_rows(state, state_size_, memory, layer.padded, rows, layer.units);
        state += layer.units;
      }
      T *free = below;
      below = after;
      after = free;
    }
    copy_rows(outputs, 2, below, layers_.back().padded, rows, 2);
  }

  // Whole vectors, which later loads can take over before they reach the cache; memcpy's pieces not.
  static SURROGATE_INLINE void copy(T *to, const T *from, int size) {
    int i = 0;
    for (; i + Layer<T>::lanes <= size; i += Layer<T>::lanes)
      Vector<T>::store(to + i, Vector<T>::load(from + i));
    for (; i < size; ++i) to[i] = from[i];
  }
  static SURROGATE_INLINE void copy_rows(T *to, ptrdiff_t to_row, const T *from,
                                         ptrdiff_t from_row, int rows, int size) {
    for (int r = 0; r < rows; ++r) copy(to + r * to_row, from + r * from_row, size);
  }

  int models_, state_size_;
  long parameter_count_;
  size_t model_size_;
  int widest_, block_;
  bool last_;  // whether the last layer is one of two units, in a form of its own
  size_t last_start_;
  std::vector<Layer<T> > layers_;
  std::vector<size_t> starts_;
  Buffer<T> weights_;
  mutable Scratch scratch_;
};

}  // namespace surrogate

#endif
