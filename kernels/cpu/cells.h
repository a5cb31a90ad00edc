// What a layer's units do once their gates are summed, and the way back; one block of units, some rows.
//
// Equations: kernels/reference.py. Pointers are to the first row; `row` steps are given per array.
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
void activate(const Layer<T> &layer, int rows, CellRows<T> at) {
  typedef Vector<T> F;
  typedef typename F::type V;
  constexpr int W = F::lanes;
  for (int r = 0; r < rows; ++r) {
    T *gates = at.gates + r * at.gates_row;
    const ptrdiff_t state = r * at.state_row;
    if (layer.kind == kLstm) {
      const V i = sigmoid_of(F::load(gates)), f = sigmoid_of(F::load(gates + W));
      const V g = tanh_of(F::load(gates + 2 * W)), o = sigmoid_of(F::load(gates + 3 * W));
      const V c = f * F::load(at.c_before + state) + i * g;
      F::store(gates, i);
      F::store(gates + W, f);
      F::store(gates + 2 * W, g);
      F::store(gates + 3 * W, o);
      F::store(at.c_after + state, c);
      F::store(at.after + state, o * tanh_of(c));
    } else if (layer.kind == kGru) {
      const V reset = sigmoid_of(F::load(gates + W)), z = sigmoid_of(F::load(gates + 2 * W));
      const V n = tanh_of(F::load(gates) + reset * F::load(gates + 3 * W));
      F::store(gates, n);
      F::store(gates + W, reset);
      F::store(gates + 2 * W, z);
      F::store(at.after + state, n + z * (F::load(at.before + state) - n));
    } else {
      for (int v = 0; v < layer.panel_units; v += W) {
        const V sum = F::load(gates + v);
        F::store(at.after + state + v, layer.kind == kLinear ? sum : tanh_of(sum));
      }
    }
  }
}

// Gradients of one block. above: of the hidden state, from outputs or the layer above. carry: of the same
// state, from the step after; leaves as the part that reaches the state before without passing the
// weights. c_carry likewise for the memory. Writes the gradients of the gates' sums.
template <class T>
struct CellGradients {
  const T *gates;  // activated; not used by rnn and linear
  T *grad_gates;
  ptrdiff_t gates_row;
  const T *before, *after, *c_before, *c_after;
  const T *above;
  T *carry, *c_carry;
  ptrdiff_t state_row;
};

template <class T>
void deactivate(const Layer<T> &layer, int rows, CellGradients<T> at) {
  typedef Vector<T> F;
  typedef typename F::type V;
  constexpr int W = F::lanes;
  const V one = F::fill(1), zero = F::fill(0);
  for (int r = 0; r < rows; ++r) {
    const T *gates = at.gates + r * at.gates_row;
    T *grad = at.grad_gates + r * at.gates_row;
    const ptrdiff_t state = r * at.state_row;
    if (layer.kind == kLstm) {
      const V i = F::load(gates), f = F::load(gates + W);
      const V g = F::load(gates + 2 * W), o = F::load(gates + 3 * W);
      const V dh = F::load(at.above + state) + F::load(at.carry + state);
      const V tanh_c = tanh_of(F::load(at.c_after + state));
      const V dc = F::load(at.c_carry + state) + dh * o * (one - tanh_c * tanh_c);
      F::store(grad, dc * g * i * (one - i));
      F::store(grad + W, dc * F::load(at.c_before + state) * f * (one - f));
      F::store(grad + 2 * W, dc * i * (one - g * g));
      F::store(grad + 3 * W, dh * tanh_c * o * (one - o));
      F::store(at.c_carry + state, dc * f);
      F::store(at.carry + state, zero);
    } else if (layer.kind == kGru) {
      const V n = F::load(gates), reset = F::load(gates + W);
      const V z = F::load(gates + 2 * W), m = F::load(gates + 3 * W);
      const V dh = F::load(at.above + state) + F::load(at.carry + state);
      const V dn = dh * (one - z) * (one - n * n);
      F::store(grad, dn);
      F::store(grad + W, dn * m * reset * (one - reset));
      F::store(grad + 2 * W, dh * (F::load(at.before + state) - n) * z * (one - z));
      F::store(grad + 3 * W, dn * reset);
      F::store(at.carry + state, dh * z);
    } else {
      for (int v = 0; v < layer.panel_units; v += W) {
        V dh = F::load(at.above + state + v);
        if (layer.kind == kRnn) {
          const V h = F::load(at.after + state + v);
          dh = (dh + F::load(at.carry + state + v)) * (one - h * h);
          F::store(at.carry + state + v, zero);
        }
        F::store(grad + v, dh);
      }
    }
  }
}

// to[column] = bias[column] + the weight columns of the active channels, one block of units.
template <class T, int NV>
void sum_events_of(const int16_t *channel, int32_t events, const T *w, const T *bias, T *to) {
  typedef Vector<T> F;
  typename F::type sum[NV];
  for (int v = 0; v < NV; ++v) sum[v] = F::load(bias + v * F::lanes);
  for (int32_t e = 0; e < events; ++e) {
    const T *column = w + ptrdiff_t(channel[e]) * NV * F::lanes;
    for (int v = 0; v < NV; ++v) sum[v] += F::load(column + v * F::lanes);
  }
  for (int v = 0; v < NV; ++v) F::store(to + v * F::lanes, sum[v]);
}

template <class T>
void sum_events(const Layer<T> &layer, const int16_t *channel, int32_t events, const T *w,
                const T *bias, T *to) {
  typedef Vector<T> F;
  switch (layer.input.vectors) {
    case 1: sum_events_of<T, 1>(channel, events, w, bias, to); break;
    case 2: sum_events_of<T, 2>(channel, events, w, bias, to); break;
    case 3: sum_events_of<T, 3>(channel, events, w, bias, to); break;
    default: sum_events_of<T, 4>(channel, events, w, bias, to);
  }
  for (int v = layer.input_width(); v < layer.width; v += F::lanes)
    F::store(to + v, F::load(bias + v));
}

// The way back: each active channel's weight gradient gains the gradient of the sums.
template <class T, int NV>
void spread_to_events_of(const int16_t *channel, int32_t events, const T *grad, T *w) {
  typedef Vector<T> F;
  typename F::type own[NV];
  for (int v = 0; v < NV; ++v) own[v] = F::load(grad + v * F::lanes);
  for (int32_t e = 0; e < events; ++e) {
    T *column = w + ptrdiff_t(channel[e]) * NV * F::lanes;
    for (int v = 0; v < NV; ++v)
      F::store(column + v * F::lanes, F::load(column + v * F::lanes) + own[v]);
  }
}

template <class T>
void spread_to_events(const Layer<T> &layer, const int16_t *channel, int32_t events, const T *grad,
                      T *w) {
  switch (layer.input.vectors) {
    case 1: return spread_to_events_of<T, 1>(channel, events, grad, w);
    case 2: return spread_to_events_of<T, 2>(channel, events, grad, w);
    case 3: return spread_to_events_of<T, 3>(channel, events, grad, w);
    default: return spread_to_events_of<T, 4>(channel, events, grad, w);
  }
}

}  // namespace surrogate

#endif
