// The memory layout of one layer's weights and activations.
//
// Units are handled in blocks, one or more vectors wide. A panel holds, for one block, the columns of
// all of a cell's slots side by side, so that a block's gates come out of one product together:
//
//   one slot       [h]                  1 to 4 vectors of units
//   several slots  [i | f | g | o]      one vector of units per slot
//
// Lanes beyond the last unit have zero weights and stay zero.
#ifndef SURROGATE_LAYER_H
#define SURROGATE_LAYER_H

#include "cell.h"

namespace surrogate {

// Vectors per panel for a row of `count` vectors: a divisor, so that no panel has an empty vector.
inline int vectors_per_panel(int count) {
  for (int vectors = 4; vectors > 1; --vectors)
    if (count % vectors == 0) return vectors;
  return 1;
}

// Canonical parameters of one layer, or their gradients: torch.nn's shapes, row-major.
template <class T>
struct Parameters {
  T *weight_ih, *weight_hh, *bias_ih, *bias_hh;  // null if there is none; an ELM's memory has kappa as bias_hh
};

// The same, packed.
template <class T>
struct Packed {
  T *input, *hidden, *bias;
};

// What a layer multiplies with weights: its input or its hidden state.
struct Operand {
  int length;            // numbers in it
  int padded;            // rounded up to whole vectors
  int from, vectors;     // the columns of a panel that it writes, in vectors
  int width;             // the same in numbers: a row of its packed weights
  int backward_vectors;  // vectors per panel where its numbers are the columns, as in the backward pass

  Operand(int lanes, int length_, int from_, int vectors_)
      : length(length_), padded((length + lanes - 1) / lanes * lanes), from(from_),
        vectors(vectors_), width(vectors * lanes),
        backward_vectors(vectors_per_panel(padded / lanes)) {}
  size_t panel_size() const { return size_t(length) * width; }
};

template <class T>
struct Layer {
  static constexpr int lanes = Vector<T>::lanes;

  Cell<T> cell;
  int units, padded;  // `padded` is rounded up to whole vectors
  int slot_vectors;   // vectors of units in a slot
  int panel_units;    // units of a block, a multiple of `lanes`
  int panels;         // blocks of units
  int width;          // numbers in a row of a panel
  Operand input, hidden;

  // `memory` is the number of units whose h the hidden weights multiply.
  Layer(const Cell<T> &cell_, int inputs, int units_, int memory)
      : cell(cell_),
        units(units_),
        padded((units + lanes - 1) / lanes * lanes),
        slot_vectors(cell.slots > 1 ? 1 : vectors_per_panel(padded / lanes)),
        panel_units(slot_vectors * lanes),
        panels(padded / panel_units),
        width(cell.slots * panel_units),
        input(lanes, inputs, 0, cell.gates * slot_vectors),
        hidden(lanes, memory, (cell.slots - cell.gates) * slot_vectors,
               cell.hidden == Hidden::kNone ? 0 : cell.gates * slot_vectors) {}

  // Units of the last block may be fewer.
  int units_in(int panel) const {
    const int left = units - panel * panel_units;
    return left < panel_units ? left : panel_units;
  }
  int state_size() const { return cell.has_state ? cell.parts * units : 0; }

  // Sizes of the packed arrays, in numbers.
  size_t size(const Operand &operand) const { return panels * operand.panel_size(); }
  size_t backward_size(const Operand &operand) const {
    return size_t(operand.padded) * panels * operand.width;
  }
  size_t bias_size() const { return size_t(panels) * width; }

  // Canonical parameters in their order; next(numbers) tells where each begins.
  template <class U, class Next>
  Parameters<U> parameters(const Next &next) const {
    const size_t rows = size_t(cell.gates) * units;
    Parameters<U> own = {next(rows * input.length), nullptr, nullptr, nullptr};
    if (hidden.length) own.weight_hh = next(rows * hidden.length);
    own.bias_ih = next(rows);
    if (hidden.vectors) own.bias_hh = next(rows);
    return own;
  }

  // Calls visit(panel, column, canonical row) for each column of an operand that is not padding.
  template <class Visit>
  void each_column(const Operand &operand, const Visit &visit) const {
    for (int panel = 0; panel < panels; ++panel)
      for (int v = 0; v < operand.vectors; ++v) {
        const int gate = cell.gate_of((operand.from + v) / slot_vectors);
        const int first = v % slot_vectors * lanes, left = units_in(panel) - first;
        for (int lane = 0; lane < (left < lanes ? left : lanes); ++lane)
          visit(panel, v * lanes + lane, gate * units + panel * panel_units + first + lane);
      }
  }
};

// canonical[row][k] <-> packed[panel][k][column].
template <bool kUnpack, class T>
void transfer_weights(const Layer<T> &layer, const Operand &operand, T *packed, T *canonical) {
  layer.each_column(operand, [&](int panel, int column, int row) {
    T *at = packed + panel * operand.panel_size() + column;
    T *from = canonical + size_t(row) * operand.length;
    for (int k = 0; k < operand.length; ++k, at += operand.width) {
      if (kUnpack) from[k] = *at;
      else *at = from[k];
    }
  });
}

// Adds a bias to its columns, or reads its gradient from them.
template <bool kUnpack, class T>
void transfer_bias(const Layer<T> &layer, const Operand &operand, T *packed, T *canonical) {
  layer.each_column(operand, [&](int panel, int column, int row) {
    T &at = packed[size_t(panel) * layer.width + operand.from * Layer<T>::lanes + column];
    if (kUnpack) canonical[row] = at;
    else at += canonical[row];
  });
}

// Packs a layer's parameters into memory that is zero, or unpacks their gradients.
template <bool kUnpack, class T>
void transfer(const Layer<T> &layer, const Packed<T> &packed, const Parameters<T> &canonical) {
  transfer_weights<kUnpack>(layer, layer.input, packed.input, canonical.weight_ih);
  transfer_bias<kUnpack>(layer, layer.input, packed.bias, canonical.bias_ih);
  if (!layer.hidden.vectors) return;
  transfer_weights<kUnpack>(layer, layer.hidden, packed.hidden, canonical.weight_hh);
  transfer_bias<kUnpack>(layer, layer.hidden, packed.bias, canonical.bias_hh);
}

// canonical[row][j] -> packed[j's panel][panel's column][j's place], for the gradients of the layer below.
// The packed array's padding must be zero beforehand.
template <class T>
void pack_backward(const Layer<T> &layer, const Operand &operand, T *packed, const T *canonical) {
  const int columns = operand.backward_vectors * Layer<T>::lanes;
  const size_t rows = size_t(layer.panels) * operand.width;
  layer.each_column(operand, [&](int panel, int column, int row) {
    T *at = packed + (size_t(panel) * operand.width + column) * columns;
    const T *from = canonical + size_t(row) * operand.length;
    for (int j = 0; j < operand.length; ++j)
      at[j / columns * rows * columns + j % columns] = from[j];
  });
}

}  // namespace surrogate

#endif
