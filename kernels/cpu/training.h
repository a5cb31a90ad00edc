// A stack over whole sequences: forward, and backward through time.
//
// Sequences advance in chunks of steps, all layers in one chunk before the next, so that a layer's input
// is still in the cache. In memory time comes first: [step][panel][sequence][width] for gates,
// [step][sequence][unit] for each part of the state, with that before a chunk or sequence at step 0.
#ifndef SURROGATE_TRAINING_H
#define SURROGATE_TRAINING_H

#include <algorithm>
#include <vector>

#include "events.h"
#include "stack.h"

namespace surrogate {

template <class T>
class Training {
 public:
  explicit Training(const Stack<T> &stack) : stack_(stack), own_(stack.layers().size()) {}

  // outputs [batch][steps][2] and state [batch][state_size] after the last step. With `keep`, what
  // backward() needs stays in memory.
  void forward(int batch, int steps, Events events, const T *state, T *outputs, T *final_state,
               bool keep) {
    const SubnormalsAreZero subnormals;
    prepare(batch, steps, keep);
    const Branches<T> &branches = stack_.branches();
    read_rows(state, branches.count, branches.padded, branch_.traces.data());
    each_part([&](size_t l, int part, size_t column) {
      read_rows(state + column, layer(l).units, layer(l).padded, own_[l].state[part].data());
    });
    for (int from = 0; from < steps; from += chunk_) {
      const int to = steps - from < chunk_ ? steps : from + chunk_;
      if (branches.count) advance_branches(events, from, to);
      for (size_t l = 0; l < own_.size(); ++l) {
        if (l == 0 && !branches.count) project_events(events, from, to);
        else project_below(l, from, to);
        const bool inner = is_inner(l);
        for (int t = from; t < to; ++t) {
          advance(l, t);
          if (inner) {
            project_below(l + 1, t, t + 1);
            advance(l + 1, t);
          }
        }
        l += inner;
      }
      copy_outputs(outputs, from, to);
      if (!keep) carry_over(to - from);
    }
    const int last = keep ? steps : 0;
    write_rows(branch_.traces.data() + branch_step() * last, branches.count, branches.padded, final_state);
    each_part([&](size_t l, int part, size_t column) {
      write_rows(own_[l].state[part].data() + state_step(l) * last, layer(l).units, layer(l).padded,
                 final_state + column);
    });
  }

  // After forward() with `keep` and the same events and weights, whose canonical form `parameters` is:
  // gradients of the weights, written to `gradients`, and of the state before the first step.
  void backward(Events events, const typename Stack<T>::Split &parameters, const T *grad_outputs,
                const T *grad_final_state, const typename Stack<T>::Split &gradients, T *grad_state) {
    const SubnormalsAreZero subnormals;
    prepare_backward(parameters.layers);
    const Branches<T> &branches = stack_.branches();
    read_rows(grad_final_state, branches.count, branches.padded, branch_.carry.data());
    each_part([&](size_t l, int part, size_t column) {
      read_rows(grad_final_state + column, layer(l).units, layer(l).padded, own_[l].carry[part].data());
    });
    const int last_chunk = (steps_ - 1) / chunk_ * chunk_;
    for (int from = last_chunk; from >= 0; from -= chunk_) {
      const int to = steps_ - from < chunk_ ? steps_ : from + chunk_;
      take_output_gradients(grad_outputs, from, to);
      for (size_t l = own_.size(); l-- > 0;) {
        const bool inner = l > 0 && is_inner(l - 1);
        if (inner) own_[l - 1].above.zeros(state_step(l - 1) * (to - from));
        for (int t = to - 1; t >= from; --t) {
          retreat(l, from, t);
          if (inner) {
            send_below(l, from, t);
            retreat(l - 1, from, t);
          }
        }
        add_weight_gradients(l, events, from, to);
        if (inner) add_weight_gradients(--l, events, from, to);
        if (l > 0) own_[l - 1].above.zeros(state_step(l - 1) * (to - from));
        else branch_.above.zeros(branch_step() * (to - from));
        if (l > 0 || branches.count)
          for (int t = from; t < to; ++t) send_below(l, from, t);
      }
      if (branches.count) retreat_branches(events, from, to);
    }
    if (branches.count) branches.unpack(branch_.grad.data(), gradients.branches);
    for (size_t l = 0; l < own_.size(); ++l) {
      const Own &own = own_[l];
      const Packed<T> packed = {own.grad_input.data(), own.grad_hidden.data(), own.grad_bias.data()};
      transfer<true>(layer(l), packed, gradients.layers[l]);
    }
    write_rows(branch_.carry.data(), branches.count, branches.padded, grad_state);
    each_part([&](size_t l, int part, size_t column) {
      write_rows(own_[l].carry[part].data(), layer(l).units, layer(l).padded, grad_state + column);
    });
  }

 private:
  static constexpr int lanes = Vector<T>::lanes;

  // The arrays of one layer.
  struct Own {
    Buffer<T> gates, state[kParts];                // forward
    Buffer<T> input_backward, hidden_backward;     // weights, units as columns
    Buffer<T> grad_input, grad_hidden, grad_bias;  // packed like the weights
    Buffer<T> above, carry[kParts];                // gradients of h and the parts, passed from step to step
  };

  // Those of the branches: traces with that before the first step, what is shown of them, gradients.
  struct Traces {
    Buffer<T> traces, shown, above, carry, grad;
  };

  const Layer<T> &layer(size_t l) const { return stack_.layers()[l]; }
  bool is_inner(size_t l) const { return layer(l).cell.hidden == Hidden::kNext; }
  // The layer whose h layer l's hidden weights multiply.
  size_t memory_of(size_t l) const { return l + is_inner(l); }
  size_t branch_step() const { return size_t(batch_) * stack_.branches().padded; }
  T *traces(int step) { return branch_.traces.data() + branch_step() * place(kept_, step); }
  T *shown(int step) {
    return stack_.branches().saturate ? branch_.shown.data() + branch_step() * place(kept_, step)
                                      : traces(step) + branch_step();
  }
  bool keeps_gates(size_t l) const { return kept_ && layer(l).cell.keeps_gates; }
  size_t gates_step(size_t l) const { return size_t(layer(l).panels) * batch_ * layer(l).width; }
  size_t state_step(size_t l) const { return size_t(batch_) * layer(l).padded; }
  // Index of a step: its own if everything is kept, else that within its chunk.
  int place(bool kept, int step) const { return kept ? step : step % chunk_; }
  T *gates(size_t l, int step) {
    return own_[l].gates.data() + gates_step(l) * place(keeps_gates(l), step);
  }
  // A part of the state before `step`, and after it.
  T *before(size_t l, int part, int step) {
    return own_[l].state[part].data() + state_step(l) * place(kept_, step);
  }
  T *after(size_t l, int part, int step) { return before(l, part, step) + state_step(l); }
  // What layer l multiplies with its input weights: the outputs of the layer or branches below.
  const T *input(size_t l, int step) { return l > 0 ? after(l - 1, 0, step) : shown(step); }
  // Gradients of the gates' sums; of one layer, and perhaps its inner one, and chunk at a time.
  T *grad_gates(size_t l, int step_of_chunk) {
    return grad_gates_[is_inner(l)].data() + gates_step(l) * step_of_chunk;
  }

  // Calls visit(layer, part, column of the canonical state) for each part of the stack's state.
  template <class Visit>
  void each_part(const Visit &visit) const {
    size_t column = stack_.branches().count;
    for (size_t l = 0; l < own_.size(); ++l)
      for (int part = 0; layer(l).cell.has_state && part < layer(l).cell.parts; ++part) {
        visit(l, part, column);
        column += layer(l).units;
      }
  }
  // Copies between rows of the canonical state and those of a layer or of the branches.
  void read_rows(const T *canonical, int units, int padded, T *own) const {
    for (int b = 0; units && b < batch_; ++b, own += padded, canonical += stack_.state_size()) {
      std::memset(own, 0, padded * sizeof(T));
      std::memcpy(own, canonical, units * sizeof(T));
    }
  }
  void write_rows(const T *own, int units, int padded, T *canonical) const {
    for (int b = 0; units && b < batch_; ++b, own += padded, canonical += stack_.state_size())
      std::memcpy(canonical, own, units * sizeof(T));
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
    branch_.traces.reserve(branch_step() * (kept_steps + 1));
    if (stack_.branches().saturate) branch_.shown.reserve(branch_step() * kept_steps);
    for (size_t l = 0; l < own_.size(); ++l) {
      own_[l].gates.reserve(gates_step(l) * (keeps_gates(l) ? steps : chunk_));
      for (int part = 0; part < layer(l).cell.parts; ++part)
        own_[l].state[part].reserve(state_step(l) * (kept_steps + 1));
    }
  }

  void advance_branches(Events events, int from, int to) {
    const Branches<T> &branches = stack_.branches();
    for (int t = from; t < to; ++t) {
      const T *before = traces(t);
      T *after = traces(t) + branch_step(), *show = shown(t);
      for (int b = 0; b < batch_; ++b, before += branches.padded, after += branches.padded) {
        branches.advance(events, size_t(b) * steps_ + t, stack_.packed_branches(), before, after);
        if (branches.saturate) branches.show(after, show + size_t(b) * branches.padded);
      }
    }
  }

  void retreat_branches(Events events, int from, int to) {
    const Branches<T> &branches = stack_.branches();
    for (int t = to - 1; t >= from; --t)
      for (int b = 0; b < batch_; ++b) {
        const size_t row = size_t(b) * branches.padded;
        branches.retreat(events, size_t(b) * steps_ + t, stack_.packed_branches(), traces(t) + row,
                         shown(t) + row, branch_.above.data() + branch_step() * (t - from) + row,
                         branch_.carry.data() + row, branch_.grad.data());
      }
  }

  void project_events(Events events, int from, int to) {
    const Layer<T> &own = layer(0);
    const Packed<const T> weights = stack_.packed(0);
    for (int p = 0; p < own.panels; ++p) {
      const T *input = weights.input + p * own.input.panel_size();
      for (int t = from; t < to; ++t) {
        T *row = gates(0, t) + size_t(p) * batch_ * own.width;
        for (int b = 0; b < batch_; ++b, row += own.width)
          sum_events(own, events, size_t(b) * steps_ + t, input,
                     weights.bias + size_t(p) * own.width, row);
      }
    }
  }

  void project_below(size_t l, int from, int to) {
    const Layer<T> &own = layer(l);
    const Packed<const T> weights = stack_.packed(l);
    for (int p = 0; p < own.panels; ++p) {
      const T *bias = weights.bias + size_t(p) * own.width;
      for (int t = from; t < to; ++t) {
        T *rows = gates(l, t) + size_t(p) * batch_ * own.width;
        for (int b = 0; b < batch_; ++b)
          std::memcpy(rows + size_t(b) * own.width, bias, own.width * sizeof(T));
        multiply(own.input.vectors, batch_, own.input.length, input(l, t), own.input.padded,
                 weights.input + p * own.input.panel_size(), rows, own.width);
      }
    }
  }

  void advance(size_t l, int t) {
    const Layer<T> &own = layer(l);
    const Packed<const T> weights = stack_.packed(l);
    CellRows<T> cells;
    cells.rows = batch_;
    cells.units = own.panel_units;
    cells.gates_row = own.width;
    cells.state_row = own.padded;
    for (int p = 0; p < own.panels; ++p) {
      cells.gates = gates(l, t) + size_t(p) * batch_ * own.width;
      if (own.hidden.length)
        multiply(own.hidden.vectors, batch_, own.hidden.length, before(memory_of(l), 0, t),
                 own.hidden.padded, weights.hidden + p * own.hidden.panel_size(),
                 cells.gates + own.hidden.from * lanes, own.width);
      const size_t unit = size_t(p) * own.panel_units;
      for (int part = 0; part < own.cell.parts; ++part) {
        cells.before[part] = before(l, part, t) + unit;
        cells.after[part] = after(l, part, t) + unit;
      }
      own.cell.forward(cells);
    }
  }

  void copy_outputs(T *outputs, int from, int to) {
    const size_t top = own_.size() - 1;
    for (int t = from; t < to; ++t) {
      const T *row = after(top, 0, t);
      for (int b = 0; b < batch_; ++b, row += layer(top).padded)
        std::memcpy(outputs + (size_t(b) * steps_ + t) * 2, row, 2 * sizeof(T));
    }
  }

  void carry_over(int steps) {
    const size_t row = branch_step();
    if (row) std::memcpy(branch_.traces.data(), branch_.traces.data() + row * steps, row * sizeof(T));
    each_part([&](size_t l, int part, size_t) {
      T *state = own_[l].state[part].data();
      std::memcpy(state, state + state_step(l) * steps, state_step(l) * sizeof(T));
    });
  }

  void prepare_backward(const std::vector<Parameters<T> > &parameters) {
    size_t most_gates[2] = {0, 0}, most_numbers = 0;
    const Branches<T> &branches = stack_.branches();
    branch_.carry.reserve(branch_step());
    if (branches.count) branch_.grad.zeros(branches.size());
    for (size_t l = 0; l < own_.size(); ++l) {
      const Layer<T> &at = layer(l);
      Own &own = own_[l];
      own.grad_input.zeros(at.size(at.input));
      own.grad_bias.zeros(at.bias_size());
      own.above.reserve(state_step(l) * chunk_);
      if (l > 0 || branches.count)
        pack_backward(at, at.input, own.input_backward.zeros(at.backward_size(at.input)),
                      parameters[l].weight_ih);
      if (at.hidden.length) {
        pack_backward(at, at.hidden, own.hidden_backward.zeros(at.backward_size(at.hidden)),
                      parameters[l].weight_hh);
        own.grad_hidden.zeros(at.size(at.hidden));
      }
      for (int part = 0; at.cell.has_state && part < at.cell.parts; ++part)
        own.carry[part].reserve(state_step(l));
      size_t &most = most_gates[is_inner(l)];
      most = std::max(most, gates_step(l));
      most_numbers = std::max(most_numbers, size_t(std::max(at.input.padded, at.units)));
    }
    for (int inner = 0; inner < 2; ++inner) grad_gates_[inner].reserve(most_gates[inner] * chunk_);
    units_.reserve(most_numbers * (kRows + batch_));
  }

  void take_output_gradients(const T *grad_outputs, int from, int to) {
    const size_t top = own_.size() - 1;
    T *row = own_[top].above.zeros(state_step(top) * (to - from));
    for (int t = from; t < to; ++t)
      for (int b = 0; b < batch_; ++b, row += layer(top).padded)
        std::memcpy(row, grad_outputs + (size_t(b) * steps_ + t) * 2, 2 * sizeof(T));
  }

  // Gradients of the gates' sums of step t, of the chunk that begins at `from`.
  void retreat(size_t l, int from, int t) {
    const Layer<T> &own = layer(l);
    CellGradients<T> cells;
    cells.rows = batch_;
    cells.units = own.panel_units;
    cells.gates_row = own.width;
    cells.state_row = own.padded;
    T *grad = grad_gates(l, t - from);
    const T *activated = keeps_gates(l) ? gates(l, t) : grad;
    for (int p = 0; p < own.panels; ++p) {
      const size_t row = size_t(p) * batch_ * own.width, unit = size_t(p) * own.panel_units;
      cells.gates = activated + row;
      cells.grad_gates = grad + row;
      cells.above = own_[l].above.data() + state_step(l) * (t - from) + unit;
      cells.bias = own_[l].grad_bias.data() + size_t(p) * own.width;
      for (int part = 0; part < own.cell.parts; ++part) {
        cells.before[part] = before(l, part, t) + unit;
        cells.after[part] = after(l, part, t) + unit;
        if (own.cell.has_state) cells.carry[part] = own_[l].carry[part].data() + unit;
      }
      own.cell.backward(cells);
    }
    if (own.hidden.length)
      send(own, own.hidden, own_[l].hidden_backward.data(), grad, own_[memory_of(l)].carry[0].data());
  }

  // Adds to the gradients of the layer's input at step t.
  void send_below(size_t l, int from, int t) {
    T *below = l > 0 ? own_[l - 1].above.data() + state_step(l - 1) * (t - from)
                     : branch_.above.data() + branch_step() * (t - from);
    send(layer(l), layer(l).input, own_[l].input_backward.data(), grad_gates(l, t - from), below);
  }

  // to[sequence][number of the operand] += gradients of the sums, through the weights.
  void send(const Layer<T> &own, const Operand &operand, const T *weights, const T *grad,
            T *to) const {
    const int columns = operand.backward_vectors * lanes;
    for (int u = 0; u < operand.padded; u += columns)
      for (int p = 0; p < own.panels; ++p) {
        const T *rows = grad + size_t(p) * batch_ * own.width + operand.from * lanes;
        if (own.units_in(p) == own.panel_units) {
          multiply(operand.backward_vectors, batch_, operand.width, rows, own.width, weights,
                   to + u, operand.padded);
        } else {
          for (int slot = 0; slot < operand.width; slot += own.panel_units)
            multiply(operand.backward_vectors, batch_, own.units_in(p), rows + slot, own.width,
                     weights + size_t(slot) * columns, to + u, operand.padded);
        }
        weights += size_t(operand.width) * columns;
      }
  }

  void add_weight_gradients(size_t l, Events events, int from, int to) {
    const Layer<T> &own = layer(l);
    const bool dense = l > 0 || stack_.branches().count;
    if (!dense) add_event_gradients(events, from, to);
    const int group = kRows / batch_ > 1 ? kRows / batch_ : 1;
    for (int t = from; t < to; t += group) {
      const int steps = to - t < group ? to - t : group;
      const T *grad = grad_gates(l, t - from);
      if (dense)
        add_products(own, own.input, input(l, t), grad, steps, own_[l].grad_input.data());
      if (own.hidden.length)
        add_products(own, own.hidden, before(memory_of(l), 0, t), grad, steps,
                     own_[l].grad_hidden.data());
    }
  }

  // `factor` holds the operand at `steps` steps, `grad` the gradients of the sums that it entered.
  void add_products(const Layer<T> &own, const Operand &operand, const T *factor, const T *grad,
                    int steps, T *to) {
    // A few narrow rows are close enough in memory without packing.
    const bool packed = operand.padded > kNarrow;
    if (packed)
      pack_units(operand.vectors, steps * batch_, operand.length, factor, operand.padded,
                 units_.data());
    UnitsTimesRows<T> product;
    product.segments = steps;
    product.length = batch_;
    product.a = packed ? units_.data() : factor;
    product.a_row = packed ? 0 : operand.padded;
    product.w_step = own.width;
    product.w_segment = ptrdiff_t(own.panels) * batch_ * own.width;
    for (int p = 0; p < own.panels; ++p) {
      product.w = grad + size_t(p) * batch_ * own.width + operand.from * lanes;
      product.c = to + p * operand.panel_size();
      accumulate(operand.vectors, operand.length, product);
    }
  }

  // Gradients of the first layer's input weights. With many panels it is faster to sort the events by
  // channel: each weight is then read and written once a chunk, not once an event.
  void add_event_gradients(Events events, int from, int to) {
    const Layer<T> &own = layer(0);
    const bool sorted = own.panels > 2;
    if (sorted)
      order_.sort(events, own.input.length, batch_, steps_, from, to, gates_step(0), own.width);
    for (int p = 0; p < own.panels; ++p) {
      T *to_panel = own_[0].grad_input.data() + p * own.input.panel_size();
      const T *grad = grad_gates(0, 0) + size_t(p) * batch_ * own.width;
      if (sorted) gather_gradients(own, order_, grad, to_panel);
      else spread(events, from, to, grad, to_panel);
    }
  }

  void spread(Events events, int from, int to, const T *grad, T *to_panel) const {
    for (int t = from; t < to; ++t, grad += gates_step(0))
      for (int b = 0; b < batch_; ++b)
        spread_to_events(layer(0), events, size_t(b) * steps_ + t,
                         grad + size_t(b) * layer(0).width, to_panel);
  }

  // The chunk of a narrow stack stays in the second-level cache, with gradients and hidden states; that
  // of a wide one in the third. A group of rows of a weight gradient stays in the first.
  static constexpr size_t kChunkBytes = size_t(1) << 19;
  static constexpr int kRows = 192, kNarrow = 64;

  const Stack<T> &stack_;
  std::vector<Own> own_;
  int batch_ = 0, steps_ = 0, chunk_ = 1;
  bool kept_ = false;
  Traces branch_;
  Buffer<T> grad_gates_[2], units_;
  ChannelOrder order_;
};

}  // namespace surrogate

#endif
