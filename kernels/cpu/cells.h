// The cells: forward and backward of a layer's units, given the sums of their gates.
//
// Equations: kernels/architectures.py. A cell is a struct and a case of `cells_of`, nothing else asks which
// one it is. V is a vector of units, or of one unit. A cell has
//
//   gates        blocks of rows of its canonical weights
//   slots        blocks of columns of a panel: the input writes the first `gates` of them, the hidden
//                state the last; where both write, they add up
//   gate_of      the canonical gate of a slot
//   parts        of its state, h first
//   hidden       what its hidden weights multiply
//   has_state    whether its state exists; else h is only an output
//   reads_h      whether `step` uses h itself, not only through the weights
//   keeps_gates  whether `backward` uses what `forward` leaves in the gates
//   forward      gates: from sums to activated; state: from before to after
//   step         the same for the state, where there is no backward pass
//   backward     grad: from that of the state after to that of the state before, without the part
//                through the weights; grad_gate: of the sums
#ifndef SURROGATE_CELLS_H
#define SURROGATE_CELLS_H

#include <stdexcept>
#include <string>

#include "cell.h"

namespace surrogate {

// The linear head, which has no state.
struct Linear {
  static constexpr int gates = 1, slots = 1, parts = 1;
  static constexpr Hidden hidden = Hidden::kNone;
  static constexpr bool has_state = false, reads_h = false, keeps_gates = false;
  static int gate_of(int) { return 0; }

  template <class V>
  static SURROGATE_INLINE void forward(V *gate, V *state) { state[0] = gate[0]; }
  template <class V>
  static SURROGATE_INLINE void step(V *gate, V *state) { state[0] = gate[0]; }
  template <class V>
  static SURROGATE_INLINE void backward(const V *, const V *, const V *, V *grad, V *grad_gate) {
    grad_gate[0] = grad[0];
  }
};

struct Rnn {
  static constexpr int gates = 1, slots = 1, parts = 1;
  static constexpr Hidden hidden = Hidden::kOwn;
  static constexpr bool has_state = true, reads_h = false, keeps_gates = false;
  static int gate_of(int) { return 0; }

  template <class V>
  static SURROGATE_INLINE void forward(V *gate, V *state) { state[0] = tanh_of(gate[0]); }
  template <class V>
  static SURROGATE_INLINE void step(V *gate, V *state) { state[0] = tanh_of(gate[0]); }
  template <class V>
  static SURROGATE_INLINE void backward(const V *, const V *, const V *after, V *grad,
                                        V *grad_gate) {
    grad_gate[0] = grad[0] * (1.0f - after[0] * after[0]);
    grad[0] = V();
  }
};

// Slots n, r, z, m: n takes the input's part of the candidate, m = U_n h + d_n.
struct Gru {
  static constexpr int gates = 3, slots = 4, parts = 1;
  static constexpr Hidden hidden = Hidden::kOwn;
  static constexpr bool has_state = true, reads_h = true, keeps_gates = true;
  static int gate_of(int slot) { return (slot + 2) % 3; }  // canonical r, z, n

  template <class V>
  static SURROGATE_INLINE void forward(V *gate, V *state) {
    const V r = sigmoid_of(gate[1]), z = sigmoid_of(gate[2]);
    const V n = tanh_of(gate[0] + r * gate[3]);
    gate[0] = n;
    gate[1] = r;
    gate[2] = z;
    state[0] = n + z * (state[0] - n);
  }
  // A division costs as much as the rest of a tanh: z and n have a common denominator. sigmoid(x) is
  // (q + p) / 2q with tanh(x / 2) = p / q.
  template <class V>
  static SURROGATE_INLINE void step(V *gate, V *state) {
    const V r = sigmoid_of(gate[1]);
    const Fraction<V> z = tanh_fraction(gate[2] * 0.5f);
    const Fraction<V> n = tanh_fraction(gate[0] + r * gate[3]);
    const V new_part = (z.bottom - z.top) * n.top;
    const V kept = (z.bottom + z.top) * n.bottom * state[0];
    state[0] = 0.5f * (new_part + kept) / (z.bottom * n.bottom);
  }
  template <class V>
  static SURROGATE_INLINE void backward(const V *gate, const V *before, const V *, V *grad,
                                        V *grad_gate) {
    const V n = gate[0], r = gate[1], z = gate[2], m = gate[3], dh = grad[0];
    const V dn = dh * (1.0f - z) * (1.0f - n * n), dm = dn * r;
    grad_gate[0] = dn;
    grad_gate[1] = dn * m * r * (1.0f - r);
    grad_gate[2] = dh * (before[0] - n) * z * (1.0f - z);
    grad_gate[3] = dm;
    grad[0] = dh * z;
  }
};

// Slots i, f, g, o; the state is h, c.
struct Lstm {
  static constexpr int gates = 4, slots = 4, parts = 2;
  static constexpr Hidden hidden = Hidden::kOwn;
  static constexpr bool has_state = true, reads_h = false, keeps_gates = true;
  static int gate_of(int slot) { return slot; }

  template <class V>
  static SURROGATE_INLINE void forward(V *gate, V *state) {
    gate[0] = sigmoid_of(gate[0]);
    gate[1] = sigmoid_of(gate[1]);
    gate[2] = tanh_of(gate[2]);
    gate[3] = sigmoid_of(gate[3]);
    state[1] = gate[1] * state[1] + gate[0] * gate[2];
    state[0] = gate[3] * tanh_of(state[1]);
  }
  // As in the GRU: common denominators of i, f and g, and of o and tanh(c).
  template <class V>
  static SURROGATE_INLINE void step(V *gate, V *state) {
    const Fraction<V> i = tanh_fraction(gate[0] * 0.5f), f = tanh_fraction(gate[1] * 0.5f);
    const Fraction<V> g = tanh_fraction(gate[2]), o = tanh_fraction(gate[3] * 0.5f);
    const V scale = i.bottom * g.bottom;
    const V kept = (f.bottom + f.top) * state[1] * scale;
    const V new_part = (i.bottom + i.top) * g.top * f.bottom;
    state[1] = 0.5f * (kept + new_part) / (f.bottom * scale);
    const Fraction<V> shown = tanh_fraction(state[1]);
    state[0] = 0.5f * (o.bottom + o.top) * shown.top / (o.bottom * shown.bottom);
  }
  template <class V>
  static SURROGATE_INLINE void backward(const V *gate, const V *before, const V *after, V *grad,
                                        V *grad_gate) {
    const V i = gate[0], f = gate[1], g = gate[2], o = gate[3], dh = grad[0];
    const V tanh_c = tanh_of(after[1]);
    const V dc = grad[1] + dh * o * (1.0f - tanh_c * tanh_c);
    grad_gate[0] = dc * g * i * (1.0f - i);
    grad_gate[1] = dc * before[1] * f * (1.0f - f);
    grad_gate[2] = dc * i * (1.0f - g * g);
    grad_gate[3] = dh * tanh_c * o * (1.0f - o);
    grad[0] = V();
    grad[1] = dc * f;
  }
};

// An ELM is two layers: the hidden layer of its MLP, whose state is the memory of the layer after it, and that
// memory. A NaN stays a NaN: comparisons are false for it.
struct ElmRelu {
  static constexpr int gates = 1, slots = 1, parts = 1;
  static constexpr Hidden hidden = Hidden::kNext;
  static constexpr bool has_state = false, reads_h = false, keeps_gates = false;
  static int gate_of(int) { return 0; }

  template <class V>
  static SURROGATE_INLINE void forward(V *gate, V *state) { state[0] = gate[0] < V() ? V() : gate[0]; }
  template <class V>
  static SURROGATE_INLINE void step(V *gate, V *state) { forward(gate, state); }
  template <class V>
  static SURROGATE_INLINE void backward(const V *, const V *, const V *after, V *grad, V *grad_gate) {
    grad_gate[0] = after[0] <= V() ? V() : grad[0];
  }
};

struct ElmSilu {
  static constexpr int gates = 1, slots = 1, parts = 1;
  static constexpr Hidden hidden = Hidden::kNext;
  static constexpr bool has_state = false, reads_h = false, keeps_gates = true;
  static int gate_of(int) { return 0; }

  template <class V>
  static SURROGATE_INLINE void forward(V *gate, V *state) { state[0] = gate[0] * sigmoid_of(gate[0]); }
  template <class V>
  static SURROGATE_INLINE void step(V *gate, V *state) { forward(gate, state); }
  template <class V>
  static SURROGATE_INLINE void backward(const V *gate, const V *, const V *, V *grad, V *grad_gate) {
    const V s = sigmoid_of(gate[0]);
    grad_gate[0] = grad[0] * s * (1.0f + gate[0] * (1.0f - s));
  }
};

// Slots: the MLP's output, and kappa, which is the bias there.
struct ElmMemory {
  static constexpr int gates = 1, slots = 2, parts = 1;
  static constexpr Hidden hidden = Hidden::kNoWeights;
  static constexpr bool has_state = true, reads_h = true, keeps_gates = true;
  static int gate_of(int) { return 0; }
  static constexpr double size = 5.0 * 1.7159, slope = 2.0 / 3.0;

  template <class V>
  static SURROGATE_INLINE void forward(V *gate, V *state) {
    gate[0] = tanh_of(gate[0] * number(gate[0], slope));
    const V most = gate[0] * number(gate[0], size);
    state[0] = most + gate[1] * (state[0] - most);
  }
  template <class V>
  static SURROGATE_INLINE void step(V *gate, V *state) { forward(gate, state); }
  template <class V>
  static SURROGATE_INLINE void backward(const V *gate, const V *before, const V *, V *grad, V *grad_gate) {
    const V delta = gate[0], kappa = gate[1], dh = grad[0];
    const V steep = number(delta, size * slope) * (1.0f - delta * delta);
    grad_gate[0] = dh * (1.0f - kappa) * steep;
    grad_gate[1] = dh * (before[0] - number(delta, size) * delta);
    grad[0] = dh * kappa;
  }
};

// What a layer of the stack consists of: one cell, or an inner one and the one that it belongs to.
template <class T>
struct Cells {
  bool two;
  Cell<T> inner, own;
  template <class Kind>
  static Cells of() {
    const Cells cells = {false, Cell<T>::template of<Kind>(), Cell<T>::template of<Kind>()};
    return cells;
  }
  template <class Inner, class Kind>
  static Cells of_two() {
    const Cells cells = {true, Cell<T>::template of<Inner>(), Cell<T>::template of<Kind>()};
    return cells;
  }
};

// The cells of a code, `cpp_code` in kernels/architectures.py; throws std::invalid_argument if there are none.
template <class T>
Cells<T> cells_of(int code) {
  switch (code) {
    case 0: return Cells<T>::template of<Rnn>();
    case 1: return Cells<T>::template of<Gru>();
    case 2: return Cells<T>::template of<Lstm>();
    case 3: return Cells<T>::template of_two<ElmRelu, ElmMemory>();
    case 4: return Cells<T>::template of_two<ElmSilu, ElmMemory>();
    default: throw std::invalid_argument("no cell has the code " + std::to_string(code));
  }
}

}  // namespace surrogate

#endif
