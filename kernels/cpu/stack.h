// A stack of recurrent layers for spike events: packed weights, and one step for many neurons.
//
// What it computes is defined by kernels/reference.py. The same header is compiled into the Python
// extension and into programs that Brian2 generates.
#ifndef SURROGATE_STACK_H
#define SURROGATE_STACK_H

#include <utility>
#include <vector>

#include "branches.h"
#include "cells.h"
#include "counts.h"
#include "events.h"
#include "last_layer.h"
#include "layer.h"
#include "memory.h"
#include "product.h"
#include "subnormal.h"

namespace surrogate {

template <class T>
class Stack {
 public:
  // `cell` is the code of cells_of, which throws std::invalid_argument where it has none. hidden_sizes has
  // `layers` entries; with a linear head the last is the head's. With models > 1 each
  // neuron has its own set of weights.
  Stack(int cell, bool linear_head, int input_size, int layers, const int *hidden_sizes,
        int models = 1, const BranchPattern &pattern = BranchPattern())
      : branches_(pattern, input_size), models_(models), input_size_(input_size) {
    const Cells<T> cells = cells_of<T>(cell);
    int inputs = input_size;
    if (branches_.count) {
      inputs = branches_.count;
      state_size_ = branches_.count;
      widest_ = branches_.padded;
      model_size_ = aligned(branches_.size());
      parameter_count_ = long(branches_.connections()) + branches_.count;
    }
    for (int l = 0; l < layers; ++l) {
      const int units = hidden_sizes[l];
      if (linear_head && l == layers - 1) {
        layers_.push_back(Layer<T>(Cell<T>::template of<Linear>(), inputs, units, 0));
      } else if (cells.two) {
        layers_.push_back(Layer<T>(cells.inner, inputs, 2 * units, units));
        layers_.push_back(Layer<T>(cells.own, 2 * units, units, 0));
      } else {
        layers_.push_back(Layer<T>(cells.own, inputs, units, units));
      }
      inputs = units;
    }
    for (const Layer<T> &layer : layers_) {
      starts_.push_back(model_size_);
      model_size_ += aligned(layer.size(layer.input)) + aligned(layer.size(layer.hidden)) +
                     aligned(layer.bias_size());
      layer.template parameters<T>([&](size_t size) -> T * {
        parameter_count_ += long(size);
        return nullptr;
      });
      state_size_ += layer.state_size();
      if (layer.padded > widest_) widest_ = layer.padded;
    }
    last_ = layers_.size() > 1 && LastLayer<T>::serves(layers_.back());
    last_start_ = model_size_;
    if (last_) model_size_ += aligned(LastLayer<T>::weights_size(layers_.back()));
    weights_.zeros(model_size_ * models);
    block_ = models > 1 ? 1 : model_size_ * sizeof(T) > kCache ? kWideBlock : kBlock;
  }

  int state_size() const { return state_size_; }
  long parameter_count() const { return parameter_count_; }
  int input_size() const { return input_size_; }
  const Branches<T> &branches() const { return branches_; }
  const std::vector<Layer<T> > &layers() const { return layers_; }

  // Canonical parameters, or their gradients.
  struct Split {
    BranchParameters<T> branches;
    std::vector<Parameters<T> > layers;
  };

  // Splits them; next(numbers) tells where each of them begins.
  template <class Next>
  Split split_by(const Next &next) const {
    Split split = {{nullptr, nullptr}, {}};
    if (branches_.count) {
      split.branches.weight = next(branches_.connections());
      split.branches.kept = next(branches_.count);
    }
    for (const Layer<T> &layer : layers_) split.layers.push_back(layer.template parameters<T>(next));
    return split;
  }

  // Parameters that lie one after the other.
  Split split(T *parameters) const {
    return split_by([&](size_t size) -> T * {
      parameters += size;
      return parameters - size;
    });
  }

  // Canonical parameters of one model, concatenated: weights and decays of the branches; per layer weight_ih,
  // weight_hh, bias_ih, bias_hh, each row-major; an ELM's weight_out, bias_out, kappa; a linear head's weight
  // and bias.
  void set_weights(const T *parameters, int model = 0) {
    set_weights(split(const_cast<T *>(parameters)), model);
  }

  void set_weights(const Split &split, int model = 0) {
    T *base = weights_.data() + model_size_ * model;
    const std::vector<Parameters<T> > &parameters = split.layers;
    if (branches_.count) branches_.pack(split.branches, base);
    for (size_t l = 0; l < layers_.size(); ++l) {
      const Packed<T> own = packed_at(base, l);
      std::memset(own.bias, 0, layers_[l].bias_size() * sizeof(T));
      transfer<false>(layers_[l], own, parameters[l]);
    }
    if (last_)
      LastLayer<T>::pack(layers_.back(), packed_at(base, layers_.size() - 1), base + last_start_);
  }

  const T *packed_branches(int model = 0) const { return weights_.data() + model_size_ * model; }
  Packed<const T> packed(size_t l, int model = 0) const {
    return packed_at<const T>(weights_.data() + model_size_ * model, l);
  }

  // Working memory of the steps; each thread that steps at the same time needs its own.
  class Scratch {
   public:
    Buffer<T> gates, hidden, memory, last;
    Buffer<int16_t> channel;
    Buffer<int32_t> row_ptr;
    Places places;
  };

  // Advances neurons `first` to `last - 1`. Neuron n's active channels, ascending and unique, are
  // channel[row_ptr[n]] to channel[row_ptr[n + 1] - 1]. state is [neurons][state_size()], branches, then
  // layers in order, parts of one in order; outputs is [neurons][2].
  void step_events(int first, int last, const int16_t *channel, const int32_t *row_ptr, T *state,
                   T *outputs, Scratch &scratch) const {
    const SubnormalsAreZero subnormals;
    scratch.gates.reserve(size_t(block_) * 4 * kVectorBytes);
    // Zeros, because subnormal numbers in lanes beyond the last unit would be slow. `memory`, which shows
    // that all of it exists, is allocated last, because an allocation may fail.
    if (!scratch.memory.data()) {
      if (last_) scratch.last.zeros(LastLayer<T>::memory_size(layers_.back(), block_));
      scratch.hidden.zeros(size_t(block_) * widest_ * 2);
      scratch.memory.zeros(size_t(block_) * widest_ * (kParts - 1));
    }
    for (int n = first; n < last; n += block_) {
      const int rows = last - n < block_ ? last - n : block_;
      const Events events = {channel, row_ptr + n};
      step_block(models_ > 1 ? n : 0, rows, events, state + size_t(n) * state_size_,
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
      for (int i = n; i < end; ++i) {
        const Active active =
            take_active(counts + size_t(i) * inputs, inputs,
                        scratch.channel.data() + row_ptr[i - n], scratch.places);
        row_ptr[i - n + 1] = row_ptr[i - n] + active.found;
        lost[i] += active.repeats;
      }
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
  // Neurons that share one sweep through the weights: few enough for their sums to stay in the first-level
  // cache, but more if the weights do not fit the second, so that each panel is read less often.
  static constexpr int kBlock = 48, kWideBlock = 288;
  static constexpr size_t kCache = size_t(2) << 20;

  static size_t aligned(size_t size) { return (size + 15) / 16 * 16; }

  // One layer's weights in a model's that begin at `base`.
  template <class U>
  Packed<U> packed_at(U *base, size_t l) const {
    U *input = base + starts_[l];
    U *hidden = input + aligned(layers_[l].size(layers_[l].input));
    const Packed<U> own = {input, hidden, hidden + aligned(layers_[l].size(layers_[l].hidden))};
    return own;
  }

  // `state` and `outputs` are those of the first neuron of the block.
  void step_block(int model, int rows, Events events, T *state, T *outputs,
                  Scratch &scratch) const {
    T *below = scratch.hidden.data(), *after = below + size_t(block_) * widest_;
    const size_t top = layers_.size() - 1;
    if (branches_.count) {
      step_branches(model, rows, events, below, state);
      state += branches_.count;
    }
    for (size_t l = 0; l < top + !last_; ++l) {
      step_layer(l, packed(l, model), rows, events, below, state, after, scratch);
      state += layers_[l].state_size();
      std::swap(below, after);
    }
    if (last_) {
      LastLayer<T>::step(layers_[top], rows, below, layers_[top - 1].padded,
                         weights_.data() + model_size_ * model + last_start_, state, state_size_,
                         scratch.last.data(), after);
      copy_rows(outputs, 2, after, 2, rows, 2);
    } else {
      copy_rows(outputs, 2, below, layers_[top].padded, rows, 2);
    }
  }

  // Traces are advanced in `below`, where a neuron has whole vectors.
  SURROGATE_INLINE void step_branches(int model, int rows, Events events, T *below, T *state) const {
    const int count = branches_.count, padded = branches_.padded;
    for (int r = 0; r < rows; ++r, below += padded, state += state_size_) {
      copy(below, state, count);
      for (int i = count; i < padded; ++i) below[i] = 0;
      branches_.advance(events, size_t(r), packed_branches(model), below, below);
      copy(state, below, count);
      if (branches_.saturate) branches_.show(below, below);
    }
  }

  // From the hidden states `below`, or events at the first layer, to those of layer l in `after`; `state`
  // is where the layer's own begins. Inlined: a call would take a few percent of a narrow stack's step.
  SURROGATE_INLINE void step_layer(size_t l, const Packed<const T> &weights, int rows, Events events, const T *below,
                  T *state, T *after, Scratch &scratch) const {
    const Layer<T> &layer = layers_[l];
    const Cell<T> &cell = layer.cell;
    T *gates = scratch.gates.data(), *parts[kParts] = {after};
    for (int part = 1; part < kParts; ++part)
      parts[part] = scratch.memory.data() + size_t(part - 1) * block_ * widest_;
    for (int part = cell.reads_h ? 0 : 1; part < cell.parts; ++part)
      copy_rows(parts[part], layer.padded, state + part * layer.units, state_size_, rows,
                layer.units);
    CellRows<T> cells;
    cells.rows = rows;
    cells.units = layer.panel_units;
    cells.gates = gates;
    cells.gates_row = layer.width;
    cells.state_row = layer.padded;
    for (int part = 0; part < kParts; ++part) cells.before[part] = cells.after[part] = parts[part];
    for (int p = 0; p < layer.panels; ++p) {
      const T *input = weights.input + p * layer.input.panel_size();
      const T *bias = weights.bias + size_t(p) * layer.width;
      if (l == 0 && !branches_.count) {
        for (int r = 0; r < rows; ++r)
          sum_events(layer, events, size_t(r), input, bias, gates + r * layer.width);
      } else {
        for (int r = 0; r < rows; ++r) copy(gates + r * layer.width, bias, layer.width);
        multiply(layer.input.vectors, rows, layer.input.length, below,
                 l ? layers_[l - 1].padded : branches_.padded, input, gates, layer.width);
      }
      if (layer.hidden.length)
        multiply(layer.hidden.vectors, rows, layer.hidden.length, state, state_size_,
                 weights.hidden + p * layer.hidden.panel_size(),
                 gates + layer.hidden.from * Layer<T>::lanes, layer.width);
      cell.step(cells);
      for (int part = 0; part < kParts; ++part)
        cells.before[part] = cells.after[part] += layer.panel_units;
    }
    if (!cell.has_state) return;
    for (int part = 0; part < cell.parts; ++part)
      copy_rows(state + part * layer.units, state_size_, parts[part], layer.padded, rows,
                layer.units);
  }

  // Whole vectors: later loads can get them by store forwarding, which memcpy's smaller stores prevent.
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

  Branches<T> branches_;
  int models_, input_size_, state_size_ = 0, widest_ = 0, block_;
  long parameter_count_ = 0;
  size_t model_size_ = 0;
  bool last_;  // whether the last layer is one of two units, in a form of its own
  size_t last_start_;
  std::vector<Layer<T> > layers_;
  std::vector<size_t> starts_;
  Buffer<T> weights_;
  mutable Scratch scratch_;
};

}  // namespace surrogate

#endif
