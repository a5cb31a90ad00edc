// A step of a recurrent layer of two units, the last of every stack, with all gates in one vector.
//
// In a panel each gate would be a vector of two units and zeros. So products use one vector
// [gate][unit] for each row; then units of consecutive rows share vectors, one per gate.
#ifndef SURROGATE_LAST_LAYER_H
#define SURROGATE_LAST_LAYER_H

#include "layer.h"
#include "product.h"

namespace surrogate {

template <class T>
class LastLayer {
 public:
  static constexpr int lanes = Vector<T>::lanes, units = 2;

  // Whether the gates fit.
  static bool serves(const Layer<T> &layer) {
    return layer.cell.hidden == Hidden::kOwn && layer.units == units && layer.cell.slots * units <= lanes;
  }
  // Numbers that its weights, and its working memory for `rows` rows, take.
  static size_t weights_size(const Layer<T> &layer) {
    return size_t(layer.input.length + units + 1) * lanes;
  }
  static size_t memory_size(const Layer<T> &layer, int rows) {
    return dense_size(rows) * (layer.cell.parts - 1 + layer.cell.slots) + size_t(rows) * lanes;
  }

  // From the panel's weights, without the lanes beyond the second unit.
  static void pack(const Layer<T> &layer, const Packed<T> &panel, T *to) {
    std::memset(to, 0, weights_size(layer) * sizeof(T));
    to = pack_rows(layer.input, layer.input.length, panel.input, to);
    to = pack_rows(layer.hidden, units, panel.hidden, to);
    const Operand all(lanes, 1, 0, layer.cell.slots);
    pack_rows(all, 1, panel.bias, to);
  }

  // `state` is that of the first row; `after` holds the hidden states afterwards, too, [rows][2].
  static void step(const Layer<T> &layer, int rows, const T *below, ptrdiff_t below_row,
                   const T *weights, T *state, ptrdiff_t state_row, T *working, T *after) {
    const Cell<T> &cell = layer.cell;
    const size_t dense = dense_size(rows);
    CellRows<T> cells;
    cells.rows = int(dense) / lanes;
    cells.units = lanes;
    cells.gates_row = cell.slots * lanes;
    cells.state_row = lanes;
    for (int part = 0; part < cell.parts; ++part) {
      cells.after[part] = part ? working + dense * (part - 1) : after;
      cells.before[part] = cells.after[part];
    }
    cells.gates = working + dense * (cell.parts - 1);
    T *sums = cells.gates + dense * cell.slots;

    const T *hidden = weights + size_t(layer.input.length) * lanes, *bias = hidden + units * lanes;
    for (int r = 0; r < rows; ++r)
      Vector<T>::store(sums + r * lanes, Vector<T>::load(bias));
    multiply(1, rows, layer.input.length, below, below_row, weights, sums, lanes);
    multiply(1, rows, units, state, state_row, hidden, sums, lanes);
    for (int r = 0; r < rows; ++r) {
      T *to = cells.gates + r / together * cells.gates_row + r % together * units;
      for (int slot = 0; slot < cell.slots; ++slot)
        move(to + slot * lanes, sums + r * lanes + slot * units);
    }
    for (int part = cell.reads_h ? 0 : 1; part < cell.parts; ++part)
      for (int r = 0; r < rows; ++r)
        move(cells.after[part] + r * units, state + r * state_row + part * units);
    cell.step(cells);
    for (int part = 0; part < cell.parts; ++part)
      for (int r = 0; r < rows; ++r)
        move(state + r * state_row + part * units, cells.after[part] + r * units);
  }

 private:
  static constexpr int together = lanes / units;  // rows that share a vector

  static size_t dense_size(int rows) { return size_t(rows + together - 1) / together * lanes; }
  static T *pack_rows(const Operand &operand, int rows, const T *panel, T *to) {
    for (int row = 0; row < rows; ++row, panel += operand.width, to += lanes)
      for (int v = 0; v < operand.vectors; ++v)
        move(to + (operand.from + v) * units, panel + v * lanes);
    return to;
  }
  static SURROGATE_INLINE void move(T *to, const T *from) {
    std::memcpy(to, from, units * sizeof(T));
  }
};

}  // namespace surrogate

#endif
