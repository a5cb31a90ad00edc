// A step of a recurrent layer of two units, the last of every stack, with all gates in one vector.
//
// As a panel each gate would fill a vector with two units and zeros. So products have one vector
// [gate][unit] for each row, and then units of consecutive rows share vectors, one per gate.
#ifndef SURROGATE_LAST_LAYER_H
#define SURROGATE_LAST_LAYER_H

#include "cells.h"
#include "product.h"

namespace surrogate {

template <class T>
class LastLayer {
 public:
  static constexpr int lanes = Vector<T>::lanes, units = 2;

  // Whether the gates fit.
  static bool serves(const Layer<T> &layer) {
    return layer.kind != kLinear && layer.units == units && slots(layer) * units <= lanes;
  }
  // Numbers that its weights, and its working memory for `rows` rows, take.
  static size_t weights_size(const Layer<T> &layer) {
    return size_t(layer.inputs + units + 1) * lanes;
  }
  static size_t memory_size(int rows) { return size_t(rows + 4) * 5 * lanes; }

  // From the panel's weights, whose lanes beyond the second unit are dropped.
  static void pack(const Layer<T> &layer, const T *input, const T *hidden, const T *bias, T *to) {
    std::memset(to, 0, weights_size(layer) * sizeof(T));
    for (int k = 0; k < layer.inputs; ++k, input += layer.input_width(), to += lanes)
      pack_row(layer.input, input, to);
    for (int k = 0; k < units; ++k, hidden += layer.hidden_width(), to += lanes)
      pack_row(layer.hidden, hidden, to);
    const Columns all = {0, slots(layer)};
    pack_row(all, bias, to);
  }

  // `state` is that of the first row, which `after` holds afterwards, too, [rows][2].
  static void step(const Layer<T> &layer, int rows, const T *below, ptrdiff_t below_row,
                   const T *weights, T *state, ptrdiff_t state_row, T *working, T *after) {
    constexpr int together = lanes / units;
    const int groups = (rows + together - 1) / together, gates = slots(layer);
    const size_t dense = size_t(groups) * lanes;
    T *before = working, *memory = before + dense, *shared = memory + dense;
    T *sums = shared + dense * gates;
    const T *hidden = weights + size_t(layer.inputs) * lanes, *bias = hidden + units * lanes;
    for (int r = 0; r < rows; ++r)
      Vector<T>::store(sums + r * lanes, Vector<T>::load(bias));
    multiply(1, rows, layer.inputs, below, below_row, weights, sums, lanes);
    multiply(1, rows, units, state, state_row, hidden, sums, lanes);
    for (int r = 0; r < rows; ++r) {
      T *to = shared + r / together * gates * lanes + r % together * units;
      for (int gate = 0; gate < gates; ++gate)
        move(to + gate * lanes, sums + r * lanes + gate * units);
    }
    if (layer.kind == kGru)
      for (int r = 0; r < rows; ++r) move(before + r * units, state + r * state_row);
    if (layer.kind == kLstm)
      for (int r = 0; r < rows; ++r) move(memory + r * units, state + r * state_row + units);
    const CellRows<T> cells = {shared, gates * lanes, before, memory, after, memory, lanes};
    update(layer, groups, cells);
    for (int r = 0; r < rows; ++r) move(state + r * state_row, after + r * units);
    if (layer.kind == kLstm)
      for (int r = 0; r < rows; ++r) move(state + r * state_row + units, memory + r * units);
  }

 private:
  static int slots(const Layer<T> &layer) { return layer.width / layer.panel_units; }
  static void pack_row(Columns columns, const T *panel, T *to) {
    for (int v = 0; v < columns.vectors; ++v)
      move(to + (columns.from + v) * units, panel + v * lanes);
  }
  static SURROGATE_INLINE void move(T *to, const T *from) {
    std::memcpy(to, from, units * sizeof(T));
  }
};

}  // namespace surrogate

#endif
