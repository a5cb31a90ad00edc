// A stack over whole sequences: forward, and backward through time.
//
// Sequences advance in chunks of steps, all layers in one chunk before the next, so that what a layer
// reads was written a moment ago. In memory time comes first: [step][panel][sequence][width] for gates,
// [step][sequence][unit] for hidden states, with the state before a chunk or sequence at step 0.
#ifndef SURROGATE_TRAINING_H
#define SURROGATE_TRAINING_H

#include <memory>

#include "events.h"
#include "stack.h"

namespace surrogate {

template <class T>
class Training {
 public:
  explicit Training(const Stack<T> &stack)
      : stack_(stack), batch_(0), steps_(0), chunk_(1), kept_(false) {
    own_.resize(stack.layers().size());
    for (size_t l = 0; l < own_.size(); ++l) own_[l].reset(new Own());
  }

  // outputs [batch][steps][2] and state [batch][state_size] after the last step. With `keep`, what
  // backward() needs stays in memory.
  void forward(int batch, int steps, Events events, const T *state, T *outputs, T *final_state,
               bool keep) {
    const SubnormalsAreZero subnormals;
    prepare(batch, steps, keep);
    move_state(state, static_cast<T *>(0), 0);
    for (int from = 0; from < steps; from += chunk_) {
      const int to = steps - from < chunk_ ? steps : from + chunk_;
      for (size_t l = 0; l < own_.size(); ++l) {
        if (l == 0) project_events(events, from, to);
        else project_below(l, from, to);
        advance(l, from, to);
      }
      copy_outputs(outputs, from, to);
      if (!keep) carry_over(to - from);
    }
    move_state(static_cast<const T *>(0), final_state, keep ? steps : 0);
  }

  // After forward() with `keep` and the same events and weights, whose canonical form `parameters` is:
  // gradients of the weights, written to `gradients`, and of the state before the first step.
  void backward(Events events, const std::vector<Parameters<T> > &parameters, const T *grad_outputs,
                const T *grad_final_state, const std::vector<Parameters<T> > &gradients,
                T *grad_state) {
    const SubnormalsAreZero subnormals;
    prepare_backward(parameters, grad_final_state);
    const int last_chunk = (steps_ - 1) / chunk_ * chunk_;
    for (int from = last_chunk; from >= 0; from -= chunk_) {
      const int to = steps_ - from < chunk_ ? steps_ : from + chunk_;
      take_output_gradients(grad_outputs, from, to);
      for (size_t l = own_.size(); l-- > 0;) {
        retreat(l, from, to);
        add_weight_gradients(l, events, from, to);
        if (l > 0) send_below(l, from, to);
      }
    }
    unpack_gradients(gradients);
    give_state_gradient(grad_state);
  }

 private:
  static constexpr int lanes = Vector<T>::lanes;

  // What belongs to one layer.
  struct Own {
    Buffer<T> gates, hidden, memory;                      // forward
    Buffer<T> input_backward, hidden_backward;            // weights, units as columns
    Buffer<T> grad_input, grad_hidden, grad_bias;         // packed like the weights
    Buffer<T> above, carry, memory_carry;                 // gradients that travel
  };

  const Layer<T> &layer(size_t l) const { return stack_.layers()[l]; }
  bool keeps_gates(size_t l) const {
    return kept_ && (layer(l).kind == kGru || layer(l).kind == kLstm);
  }
  size_t gates_step(size_t l) const { return size_t(layer(l).panels) * batch_ * layer(l).width; }
  size_t hidden_step(size_t l) const { return size_t(batch_) * layer(l).padded; }
  // Where a step lies: at its own place if everything is kept, else within its chunk.
  int hidden_place(int step) const { return kept_ ? step : step % chunk_; }
  int gates_place(size_t l, int step) const { return keeps_gates(l) ? step : step % chunk_; }
  T *gates(size_t l, int step) { return own_[l]->gates.data() + gates_step(l) * gates_place(l, step); }
  // The state before `step`; the one after it is a hidden_step further.
  T *hidden(size_t l, int step) {
    return own_[l]->hidden.data() + hidden_step(l) * hidden_place(step);
  }
  T *memory(size_t l, int step) {
    return own_[l]->memory.data() + hidden_step(l) * hidden_place(step);
  }

  void prepare(int batch, int steps, bool keep) {
    batch_ = batch;
    steps_ = steps;
    kept_ = keep;
    size_t step_bytes = 0;
    for (size_t l = 0; l < own_.size(); ++l) step_bytes += gates_step(l) * sizeof(T);
    const size_t fit = kChunkBytes / step_bytes;
    chunk_ = fit < 16 ? 16 : fit > 256 ? 256 : int(fit);
    if (chunk_ > steps) chunk_ = steps;
    const int kept_steps = keep ? steps : chunk_;
    for (size_t l = 0; l < own_.size(); ++l) {
      own_[l]->gates.reserve(gates_step(l) * (keeps_gates(l) ? steps : chunk_));
      own_[l]->hidden.reserve(hidden_step(l) * (kept_steps + 1));
      if (layer(l).kind == kLstm) own_[l]->memory.reserve(hidden_step(l) * (kept_steps + 1));
    }
  }

  // Copies the canonical state into place 0, or out of place `at`.
  void move_state(const T *in, T *out, int at) {
    const size_t row = stack_.state_size();
    size_t column = 0;
    for (size_t l = 0; l < own_.size(); ++l) {
      if (layer(l).kind == kLinear) continue;
      for (int part = 0; part < (layer(l).kind == kLstm ? 2 : 1); ++part) {
        T *own = (part ? own_[l]->memory : own_[l]->hidden).data() + hidden_step(l) * at;
        move_rows(in ? in + column : in, out ? out + column : out, row, own, layer(l));
        column += layer(l).units;
      }
    }
  }
  void move_rows(const T *in, T *out, size_t row, T *own, const Layer<T> &layer) const {
    for (int b = 0; b < batch_; ++b, own += layer.padded) {
      if (in) {
        std::memset(own, 0, layer.padded * sizeof(T));
        std::memcpy(own, in + b * row, layer.units * sizeof(T));
      } else {
        std::memcpy(out + b * row, own, layer.units * sizeof(T));
      }
    }
  }

  void project_events(Events events, int from, int to) {
    const Layer<T> &own = layer(0);
    const Packed<T> weights = stack_.packed(0);
    for (int p = 0; p < own.panels; ++p) {
      const T *input = weights.input + size_t(p) * own.inputs * own.input_width();
      for (int t = from; t < to; ++t) {
        T *row = gates(0, t) + size_t(p) * batch_ * own.width;
        for (int b = 0; b < batch_; ++b, row += own.width) {
          const int32_t *at = events.row_ptr + size_t(b) * steps_ + t;
          sum_events(own, events.channel + at[0], at[1] - at[0], input,
                     weights.bias + size_t(p) * own.width, row);
        }
      }
    }
  }

  void project_below(size_t l, int from, int to) {
    const Layer<T> &own = layer(l);
    const Packed<T> weights = stack_.packed(l);
    for (int p = 0; p < own.panels; ++p) {
      const T *bias = weights.bias + size_t(p) * own.width;
      for (int t = from; t < to; ++t) {
        T *rows = gates(l, t) + size_t(p) * batch_ * own.width;
        for (int b = 0; b < batch_; ++b)
          std::memcpy(rows + size_t(b) * own.width, bias, own.width * sizeof(T));
        multiply(own.input.vectors, batch_, own.inputs, hidden(l - 1, t) + hidden_step(l - 1),
                 layer(l - 1).padded, weights.input + size_t(p) * own.inputs * own.input_width(),
                 rows, own.width);
      }
    }
  }

  void advance(size_t l, int from, int to) {
    const Layer<T> &own = layer(l);
    const Packed<T> weights = stack_.packed(l);
    for (int t = from; t < to; ++t) {
      T *before = hidden(l, t), *memory_before = own.kind == kLstm ? memory(l, t) : before;
      for (int p = 0; p < own.panels; ++p) {
        T *rows = gates(l, t) + size_t(p) * batch_ * own.width;
        if (own.kind != kLinear)
          multiply(own.hidden.vectors, batch_, own.units, before, own.padded,
                   weights.hidden + size_t(p) * own.units * own.hidden_width(),
                   rows + own.hidden.from * lanes, own.width);
        const size_t at = size_t(p) * own.panel_units;
        const CellRows<T> cells = {rows,
                                   own.width,
                                   before + at,
                                   memory_before + at,
                                   before + hidden_step(l) + at,
                                   memory_before + hidden_step(l) + at,
                                   own.padded};
        activate(own, batch_, cells);
      }
    }
  }

  void copy_outputs(T *outputs, int from, int to) {
    const size_t top = own_.size() - 1;
    for (int t = from; t < to; ++t) {
      const T *row = hidden(top, t) + hidden_step(top);
      for (int b = 0; b < batch_; ++b, row += layer(top).padded)
        std::memcpy(outputs + (size_t(b) * steps_ + t) * 2, row, 2 * sizeof(T));
    }
  }

  void carry_over(int steps) {
    for (size_t l = 0; l < own_.size(); ++l) {
      const size_t step = hidden_step(l);
      T *hidden = own_[l]->hidden.data(), *memory = own_[l]->memory.data();
      std::memcpy(hidden, hidden + step * steps, step * sizeof(T));
      if (memory) std::memcpy(memory, memory + step * steps, step * sizeof(T));
    }
  }

  void prepare_backward(const std::vector<Parameters<T> > &parameters, const T *grad_final_state) {
    size_t widest = 0, most_gates = 0, column = 0;
    for (size_t l = 0; l < own_.size(); ++l) {
      const Layer<T> &at = layer(l);
      Own &own = *own_[l];
      if (l > 0) {
        const PackBackward<T> pack = {own.input_backward.zeros(at.input_backward_size()),
                                      parameters[l].weight_ih, at.inputs,
                                      at.panels * at.input_width(), at.input_width(),
                                      at.input_vectors};
        at.each_column(true, pack);
      }
      own.grad_input.zeros(at.input_size());
      own.grad_bias.zeros(at.bias_size());
      own.above.reserve(hidden_step(l) * chunk_);
      const size_t wide = size_t(at.units > at.inputs || l == 0 ? at.units : at.inputs);
      if (wide > widest) widest = wide;
      if (gates_step(l) > most_gates) most_gates = gates_step(l);
      if (at.kind == kLinear) continue;
      const PackBackward<T> pack = {own.hidden_backward.zeros(at.hidden_backward_size()),
                                    parameters[l].weight_hh, at.units,
                                    at.panels * at.hidden_width(), at.hidden_width(),
                                    at.unit_vectors};
      at.each_column(false, pack);
      own.grad_hidden.zeros(at.hidden_size());
      const size_t row = stack_.state_size();
      move_rows(grad_final_state + column, static_cast<T *>(0), row,
                own.carry.reserve(hidden_step(l)), at);
      column += at.units;
      if (at.kind != kLstm) continue;
      move_rows(grad_final_state + column, static_cast<T *>(0), row,
                own.memory_carry.reserve(hidden_step(l)), at);
      column += at.units;
    }
    grad_gates_.reserve(most_gates * chunk_);
    units_.reserve(widest * (kRows + batch_));
  }

  void take_output_gradients(const T *grad_outputs, int from, int to) {
    const size_t top = own_.size() - 1;
    T *row = own_[top]->above.zeros(hidden_step(top) * (to - from));
    for (int t = from; t < to; ++t)
      for (int b = 0; b < batch_; ++b, row += layer(top).padded)
        std::memcpy(row, grad_outputs + (size_t(b) * steps_ + t) * 2, 2 * sizeof(T));
  }

  // Gradients of the gates' sums, from the last step of the chunk to the first.
  void retreat(size_t l, int from, int to) {
    const Layer<T> &own = layer(l);
    for (int t = to - 1; t >= from; --t) {
      const T *before = hidden(l, t);
      const T *memory_before = own.kind == kLstm ? memory(l, t) : before;
      T *grad = grad_gates_.data() + gates_step(l) * (t - from);
      const T *activated = keeps_gates(l) ? gates(l, t) : grad;
      for (int p = 0; p < own.panels; ++p) {
        const size_t at = size_t(p) * own.panel_units, rows = size_t(p) * batch_ * own.width;
        const CellGradients<T> cells = {activated + rows,
                                        grad + rows,
                                        own.width,
                                        before + at,
                                        before + hidden_step(l) + at,
                                        memory_before + at,
                                        memory_before + hidden_step(l) + at,
                                        own_[l]->above.data() + hidden_step(l) * (t - from) + at,
                                        own_[l]->carry.data() + at,
                                        own_[l]->memory_carry.data() + at,
                                        own_[l]->grad_bias.data() + size_t(p) * own.width,
                                        own.padded};
        deactivate(own, batch_, cells);
      }
      if (own.kind != kLinear)
        send(own, own.hidden, own.unit_vectors, own.padded, own_[l]->hidden_backward.data(), grad,
             own_[l]->carry.data());
    }
  }

  void send_below(size_t l, int from, int to) {
    const Layer<T> &own = layer(l);
    T *below = own_[l - 1]->above.zeros(hidden_step(l - 1) * (to - from));
    for (int t = 0; t < to - from; ++t)
      send(own, own.input, own.input_vectors, layer(l - 1).padded, own_[l]->input_backward.data(),
           grad_gates_.data() + gates_step(l) * t, below + hidden_step(l - 1) * t);
  }

  // to[sequence][unit] += gradients of the sums, through the weights of one operand.
  void send(const Layer<T> &own, Columns operand, int vectors, int padded, const T *weights,
            const T *grad, T *to) const {
    const int width = operand.vectors * lanes, columns = vectors * lanes;
    const int per_gate = own.vectors_per_gate() * lanes;
    for (int u = 0; u < padded; u += columns) {
      for (int p = 0; p < own.panels; ++p) {
        const T *rows = grad + size_t(p) * batch_ * own.width + operand.from * lanes;
        if (own.units_in(p) == own.panel_units) {
          multiply(vectors, batch_, width, rows, own.width, weights, to + u, padded);
        } else {
          for (int gate = 0; gate < width; gate += per_gate)
            multiply(vectors, batch_, own.units_in(p), rows + gate, own.width,
                     weights + size_t(gate) * columns, to + u, padded);
        }
        weights += size_t(width) * columns;
      }
    }
  }

  void add_weight_gradients(size_t l, Events events, int from, int to) {
    const Layer<T> &own = layer(l);
    if (l == 0) add_event_gradients(events, from, to);
    const int group = kRows / batch_ > 1 ? kRows / batch_ : 1;
    for (int t = from; t < to; t += group) {
      const int steps = to - t < group ? to - t : group;
      const T *grad = grad_gates_.data() + gates_step(l) * (t - from);
      if (l > 0)
        add_products(own, own.input, own.inputs, hidden(l - 1, t) + hidden_step(l - 1),
                     layer(l - 1).padded, grad, steps, own_[l]->grad_input.data());
      if (own.kind != kLinear)
        add_products(own, own.hidden, own.units, hidden(l, t), own.padded, grad, steps,
                     own_[l]->grad_hidden.data());
    }
  }

  void add_products(const Layer<T> &own, Columns operand, int units, const T *factor,
                    int factor_row, const T *grad, int steps, T *to) {
    // A few narrow rows lie close enough together as they are.
    const bool packed = factor_row > kNarrow;
    if (packed) pack_units(operand.vectors, steps * batch_, units, factor, factor_row, units_.data());
    const ptrdiff_t step = ptrdiff_t(own.panels) * batch_ * own.width;
    for (int p = 0; p < own.panels; ++p) {
      const T *rows = grad + size_t(p) * batch_ * own.width + operand.from * lanes;
      const UnitsTimesRows<T> product = {steps,
                                         batch_,
                                         packed ? units_.data() : factor,
                                         packed ? 0 : factor_row,
                                         rows,
                                         own.width,
                                         step,
                                         to + size_t(p) * units * operand.vectors * lanes};
      accumulate(operand.vectors, units, product);
    }
  }

  // Gradients of the first layer's input weights. Many panels repay sorting the events by channel: each
  // weight is then read and written once a chunk, not once an event.
  void add_event_gradients(Events events, int from, int to) {
    const Layer<T> &own = layer(0);
    const bool sorted = own.panels > 2;
    if (sorted)
      order_.sort(events, own.inputs, batch_, steps_, from, to, gates_step(0), own.width);
    for (int p = 0; p < own.panels; ++p) {
      T *to_panel = own_[0]->grad_input.data() + size_t(p) * own.inputs * own.input_width();
      const T *grad = grad_gates_.data() + size_t(p) * batch_ * own.width;
      if (sorted) gather_gradients(own, order_, grad, to_panel);
      else spread(events, from, to, grad, to_panel);
    }
  }

  void spread(Events events, int from, int to, const T *grad, T *to_panel) const {
    for (int t = from; t < to; ++t, grad += gates_step(0))
      for (int b = 0; b < batch_; ++b) {
        const int32_t *at = events.row_ptr + size_t(b) * steps_ + t;
        spread_to_events(layer(0), events.channel + at[0], at[1] - at[0],
                         grad + size_t(b) * layer(0).width, to_panel);
      }
  }

  void unpack_gradients(const std::vector<Parameters<T> > &gradients) {
    for (size_t l = 0; l < own_.size(); ++l) {
      const Layer<T> &at = layer(l);
      const Parameters<T> &to = gradients[l];
      Own &own = *own_[l];
      const Transfer<T, true> weight_ih = {own.grad_input.data(), to.weight_ih, at.inputs,
                                           at.input_width()};
      at.each_column(true, weight_ih);
      const TransferBias<T, true> bias_ih = {own.grad_bias.data(), to.bias_ih, at.width,
                                             at.input.from * lanes};
      at.each_column(true, bias_ih);
      if (at.kind == kLinear) continue;
      const Transfer<T, true> weight_hh = {own.grad_hidden.data(), to.weight_hh, at.units,
                                           at.hidden_width()};
      at.each_column(false, weight_hh);
      const TransferBias<T, true> bias_hh = {own.grad_bias.data(), to.bias_hh, at.width,
                                             at.hidden.from * lanes};
      at.each_column(false, bias_hh);
    }
  }

  void give_state_gradient(T *grad_state) {
    size_t column = 0;
    for (size_t l = 0; l < own_.size(); ++l) {
      if (layer(l).kind == kLinear) continue;
      move_rows(static_cast<const T *>(0), grad_state + column, stack_.state_size(),
                own_[l]->carry.data(), layer(l));
      column += layer(l).units;
      if (layer(l).kind != kLstm) continue;
      move_rows(static_cast<const T *>(0), grad_state + column, stack_.state_size(),
                own_[l]->memory_carry.data(), layer(l));
      column += layer(l).units;
    }
  }

  // A narrow stack's chunk stays in the second-level cache, gradients and hidden states included; a wide
  // one's in the third. A group of rows of a weight gradient stays in the first.
  static constexpr size_t kChunkBytes = size_t(1) << 19;
  static constexpr int kRows = 192, kNarrow = 64;

  const Stack<T> &stack_;
  int batch_, steps_, chunk_;
  bool kept_;
  std::vector<std::unique_ptr<Own> > own_;
  Buffer<T> grad_gates_, units_;
  ChannelOrder order_;
};

}  // namespace surrogate

#endif
