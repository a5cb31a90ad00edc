// What a layer's units do once their gates are summed, and the way back; one block of units, some rows.
//
// Equations: kernels/architectures.py. Pointers are to the first row; `row` steps are given per array.
#ifndef SURROGATE_CELLS_H
#define SURROGATE_CELLS_H

#include "layer.h"

namespace surrogate {

// gates: in, sums; out, activated (n, r, z, m for the GRU, whose m stays a sum). `before` and `after` are
// hidden states, c_before and c_after the LSTM's memory.
template <class T>
struct CellRows {
  T *gates;
  ptrdiff_t gates_row;
  const T *before, *c_before;
  T *after, *c_after;
  ptrdiff_t state_row;
};

template <class T>
void activate_lstm(int rows, CellRows<T> at) {
  typedef Vector<T> F;
  typedef typename F::type V;
  constexpr int W = F::lanes;
  for (int r = 0; r < rows; ++r) {
    T *gates = at.gates + r * at.gates_row;
    const ptrdiff_t state = r * at.state_row;
    const V i = sigmoid_of(F::load(gates)), f = sigmoid_of(F::load(gates + W));
    const V g = tanh_of(F::load(gates + 2 * W)), o = sigmoid_of(F::load(gates + 3 * W));
    const V c = f * F::load(at.c_before + state) + i * g;
    F::store(gates, i);
    F::store(gates + W, f);
    F::store(gates + 2 * W, g);
    F::store(gates + 3 * W, o);
    F::store(at.c_after + state, c);
    F::store(at.after + state, o * tanh_of(c));
  }
}

template <class T>
void activate_gru(int rows, CellRows<T> at) {
  typedef Vector<T> F;
  typedef typename F::type V;
  constexpr int W = F::lanes;
  for (int r = 0; r < rows; ++r) {
    T *gates = at.gates + r * at.gates_row;
    const ptrdiff_t state = r * at.state_row;
    const V reset = sigmoid_of(F::load(gates + W)), z = sigmoid_of(F::load(gates + 2 * W));
    const V n = tanh_of(F::load(gates) + reset * F::load(gates + 3 * W));
    F::store(gates, n);
    F::store(gates + W, reset);
    F::store(gates + 2 * W, z);
    F::store(at.after + state, n + z * (F::load(at.before + state) - n));
  }
}

template <class T>
void activate_plain(const Layer<T> &layer, int rows, CellRows<T> at) {
  typedef Vector<T> F;
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < layer.panel_units; v += F::lanes) {
      const typename F::type sum = F::load(at.gates + r * at.gates_row + v);
      F::store(at.after + r * at.state_row + v, layer.kind == kLinear ? sum : tanh_of(sum));
    }
}

template <class T>
void activate(const Layer<T> &layer, int rows, CellRows<T> at) {
  if (layer.kind == kLstm) activate_lstm(rows, at);
  else if (layer.kind == kGru) activate_gru(rows, at);
  else activate_plain(layer, rows, at);
}

// One step forward and no way back: the same equations with common denominators, for a division costs
// as much as the rest of a tanh. sigmoid(x) is (q + p) / 2q with tanh(x / 2) = p / q.
template <class T>
void update_lstm(int rows, CellRows<T> at) {
  typedef Vector<T> F;
  typedef typename F::type V;
  constexpr int W = F::lanes;
  const V half = F::fill(T(0.5));
  for (int r = 0; r < rows; ++r) {
    const T *gates = at.gates + r * at.gates_row;
    const ptrdiff_t state = r * at.state_row;
    const Fraction<V> i = tanh_fraction(F::load(gates) * half);
    const Fraction<V> f = tanh_fraction(F::load(gates + W) * half);
    const Fraction<V> g = tanh_fraction(F::load(gates + 2 * W));
    const V scale = i.bottom * g.bottom;
    const V kept = (f.bottom + f.top) * F::load(at.c_before + state) * scale;
    const V new_part = (i.bottom + i.top) * g.top * f.bottom;
    const V c = half * (kept + new_part) / (f.bottom * scale);
    const Fraction<V> o = tanh_fraction(F::load(gates + 3 * W) * half), shown = tanh_fraction(c);
    F::store(at.c_after + state, c);
    F::store(at.after + state,
             half * (o.bottom + o.top) * shown.top / (o.bottom * shown.bottom));
  }
}

template <class T>
void update_gru(int rows, CellRows<T> at) {
  typedef Vector<T> F;
  typedef typename F::type V;
  constexpr int W = F::lanes;
  const V half = F::fill(T(0.5));
  for (int r = 0; r < rows; ++r) {
    const T *gates = at.gates + r * at.gates_row;
    const ptrdiff_t state = r * at.state_row;
    const V reset = sigmoid_of(F::load(gates + W));
    const Fraction<V> z = tanh_fraction(F::load(gates + 2 * W) * half);
    const Fraction<V> n = tanh_fraction(F::load(gates) + reset * F::load(gates + 3 * W));
    const V new_part = (z.bottom - z.top) * n.top;
    const V kept = (z.bottom + z.top) * n.bottom * F::load(at.before + state);
    F::store(at.after + state, half * (new_part + kept) / (z.bottom * n.bottom));
  }
}

template <class T>
void update(const Layer<T> &layer, int rows, CellRows<T> at) {
  if (layer.kind == kLstm) update_lstm(rows, at);
  else if (layer.kind == kGru) update_gru(rows, at);
  else activate_plain(layer, rows, at);
}

// Gradients of one block. above: of the hidden state, from outputs or the layer above. carry: of the same
// state, from the step after; leaves as the part that reaches the state before without passing the
// weights. c_carry likewise for the memory. Writes the gradients of the gates' sums, and adds them to bias.
template <class T>
struct CellGradients {
  const T *gates;  // activated; not used by rnn and linear
  T *grad_gates;
  ptrdiff_t gates_row;
  const T *before, *after, *c_before, *c_after;
  const T *above;
  T *carry, *c_carry;
  T *bias;
  ptrdiff_t state_row;
};

template <class T>
void deactivate_lstm(int rows, CellGradients<T> at) {
  typedef Vector<T> F;
  typedef typename F::type V;
  constexpr int W = F::lanes;
  const V one = F::fill(1), zero = F::fill(0);
  V sum_i = zero, sum_f = zero, sum_g = zero, sum_o = zero;
  for (int r = 0; r < rows; ++r) {
    const T *gates = at.gates + r * at.gates_row;
    T *grad = at.grad_gates + r * at.gates_row;
    const ptrdiff_t state = r * at.state_row;
    const V i = F::load(gates), f = F::load(gates + W);
    const V g = F::load(gates + 2 * W), o = F::load(gates + 3 * W);
    const V dh = F::load(at.above + state) + F::load(at.carry + state);
    const V tanh_c = tanh_of(F::load(at.c_after + state));
    const V dc = F::load(at.c_carry + state) + dh * o * (one - tanh_c * tanh_c);
    const V di = dc * g * i * (one - i), df = dc * F::load(at.c_before + state) * f * (one - f);
    const V dg = dc * i * (one - g * g), d_o = dh * tanh_c * o * (one - o);
    F::store(grad, di);
    F::store(grad + W, df);
    F::store(grad + 2 * W, dg);
    F::store(grad + 3 * W, d_o);
    sum_i += di;
    sum_f += df;
    sum_g += dg;
    sum_o += d_o;
    F::store(at.c_carry + state, dc * f);
    F::store(at.carry + state, zero);
  }
  F::store(at.bias, F::load(at.bias) + sum_i);
  F::store(at.bias + W, F::load(at.bias + W) + sum_f);
  F::store(at.bias + 2 * W, F::load(at.bias + 2 * W) + sum_g);
  F::store(at.bias + 3 * W, F::load(at.bias + 3 * W) + sum_o);
}

template <class T>
void deactivate_gru(int rows, CellGradients<T> at) {
  typedef Vector<T> F;
  typedef typename F::type V;
  constexpr int W = F::lanes;
  const V one = F::fill(1), zero = F::fill(0);
  V sum_n = zero, sum_r = zero, sum_z = zero, sum_m = zero;
  for (int r = 0; r < rows; ++r) {
    const T *gates = at.gates + r * at.gates_row;
    T *grad = at.grad_gates + r * at.gates_row;
    const ptrdiff_t state = r * at.state_row;
    const V n = F::load(gates), reset = F::load(gates + W);
    const V z = F::load(gates + 2 * W), m = F::load(gates + 3 * W);
    const V dh = F::load(at.above + state) + F::load(at.carry + state);
    const V dn = dh * (one - z) * (one - n * n), dm = dn * reset;
    const V dr = dn * m * reset * (one - reset);
    const V dz = dh * (F::load(at.before + state) - n) * z * (one - z);
    F::store(grad, dn);
    F::store(grad + W, dr);
    F::store(grad + 2 * W, dz);
    F::store(grad + 3 * W, dm);
    sum_n += dn;
    sum_r += dr;
    sum_z += dz;
    sum_m += dm;
    F::store(at.carry + state, dh * z);
  }
  F::store(at.bias, F::load(at.bias) + sum_n);
  F::store(at.bias + W, F::load(at.bias + W) + sum_r);
  F::store(at.bias + 2 * W, F::load(at.bias + 2 * W) + sum_z);
  F::store(at.bias + 3 * W, F::load(at.bias + 3 * W) + sum_m);
}

template <class T>
void deactivate_plain(const Layer<T> &layer, int rows, CellGradients<T> at) {
  typedef Vector<T> F;
  typedef typename F::type V;
  for (int v = 0; v < layer.panel_units; v += F::lanes) {
    V sum = F::load(at.bias + v);
    for (int r = 0; r < rows; ++r) {
      const ptrdiff_t state = r * at.state_row + v;
      V grad = F::load(at.above + state);
      if (layer.kind == kRnn) {
        const V h = F::load(at.after + state);
        grad = (grad + F::load(at.carry + state)) * (F::fill(1) - h * h);
        F::store(at.carry + state, F::fill(0));
      }
      F::store(at.grad_gates + r * at.gates_row + v, grad);
      sum += grad;
    }
    F::store(at.bias + v, sum);
  }
}

template <class T>
void deactivate(const Layer<T> &layer, int rows, CellGradients<T> at) {
  if (layer.kind == kLstm) deactivate_lstm(rows, at);
  else if (layer.kind == kGru) deactivate_gru(rows, at);
  else deactivate_plain(layer, rows, at);
}

}  // namespace surrogate

#endif
