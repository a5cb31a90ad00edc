// How one layer's weights and activations lie in memory.
//
// Units are handled in blocks, one or more vectors wide. A panel holds, for one block, the columns of
// all gates side by side, so that a block's gates come out of one product together:
//
//   rnn, linear   [h]                  1 to 4 vectors of units
//   lstm          [i | f | g | o]      one vector of units per gate
//   gru           [n | r | z | m]      likewise; n takes the input's part of the candidate, m = U_n h + d_n
//
// The input writes the columns from `input_from` on, the hidden state those from `hidden_from` on. Lanes
// beyond the last unit have zero weights and stay zero.
#ifndef SURROGATE_LAYER_H
#define SURROGATE_LAYER_H

#include "simd.h"

namespace surrogate {

enum Kind { kRnn = 0, kGru = 1, kLstm = 2, kLinear = 3 };

// Vectors per panel for a row of `count` vectors: a divisor, so that no panel has an empty vector.
inline int vectors_per_panel(int count) {
  for (int vectors = 4; vectors > 1; --vectors)
    if (count % vectors == 0) return vectors;
  return 1;
}

// Canonical parameters of one layer, or their gradients: torch.nn's shapes, row-major.
template <class T>
struct Parameters {
  T *weight_ih, *weight_hh, *bias_ih, *bias_hh;  // a linear layer has weight_ih and bias_ih alone
};

// Columns that one operand writes: `vectors` of them from vector `from` of the panel.
struct Columns {
  int from, vectors;
};

template <class T>
struct Layer {
  static constexpr int lanes = Vector<T>::lanes;

  Kind kind;
  int inputs, units;
  int gates;          // canonical blocks of rows
  int panels;         // blocks of units
  int panel_units;    // units of a block, a multiple of `lanes`
  int width;          // numbers in a row of a panel
  int padded;         // units rounded up to whole vectors
  Columns input, hidden;
  int unit_vectors;   // vectors per panel where units are the columns, as in the backward pass
  int input_vectors;  // likewise for the layer below

  Layer(Kind kind_, int inputs_, int units_) : kind(kind_), inputs(inputs_), units(units_) {
    const int count = (units + lanes - 1) / lanes;
    padded = count * lanes;
    unit_vectors = vectors_per_panel(count);
    input_vectors = vectors_per_panel((inputs + lanes - 1) / lanes);
    const bool gated = kind == kGru || kind == kLstm;
    gates = kind == kGru ? 3 : kind == kLstm ? 4 : 1;
    panel_units = gated ? lanes : unit_vectors * lanes;
    panels = padded / panel_units;
    width = gated ? 4 * lanes : panel_units;
    const int columns = gated ? gates : unit_vectors;
    input.from = 0;
    input.vectors = columns;
    hidden.from = kind == kGru ? 1 : 0;
    hidden.vectors = kind == kLinear ? 0 : columns;
  }

  int input_width() const { return input.vectors * lanes; }
  int hidden_width() const { return hidden.vectors * lanes; }
  // Units of the last block may be fewer.
  int units_in(int panel) const {
    const int left = units - panel * panel_units;
    return left < panel_units ? left : panel_units;
  }
  // Vectors of a panel that belong to one gate.
  int vectors_per_gate() const { return panel_units / lanes; }

  // Sizes of the packed arrays, in numbers.
  size_t input_size() const { return size_t(panels) * inputs * input_width(); }
  size_t hidden_size() const { return size_t(panels) * units * hidden_width(); }
  size_t bias_size() const { return size_t(panels) * width; }
  size_t padded_inputs() const { return size_t((inputs + lanes - 1) / lanes) * lanes; }
  size_t input_backward_size() const { return padded_inputs() * panels * input_width(); }
  size_t hidden_backward_size() const { return size_t(padded) * panels * hidden_width(); }

  // The canonical gate of vector `v` among an operand's columns; the GRU's n stands first for the input
  // (canonical r, z, n) and last, as m, for the hidden state.
  int gate_of(bool of_input, int v) const {
    if (kind == kGru) return of_input ? (v + 2) % 3 : v;
    return kind == kLstm ? v : 0;
  }

  // Calls visit(panel, column, canonical row) for each column of an operand that is not padding.
  template <class Visit>
  void each_column(bool of_input, const Visit &visit) const {
    const int vectors = of_input ? input.vectors : hidden.vectors;
    const int per_gate = vectors_per_gate();
    for (int panel = 0; panel < panels; ++panel)
      for (int v = 0; v < vectors; ++v)
        for (int lane = 0; lane < lanes; ++lane) {
          const int in_block = (v % per_gate) * lanes + lane;
          if (in_block < units_in(panel))
            visit(panel, v * lanes + lane,
                  gate_of(of_input, v) * units + panel * panel_units + in_block);
        }
  }
};

// canonical[row][k] <-> packed[panel][k][column]; the packed array's padding must be zero beforehand.
template <class T, bool kUnpack>
struct Transfer {
  T *packed;
  T *canonical;
  int length, width;
  void operator()(int panel, int column, int row) const {
    T *at = packed + size_t(panel) * length * width + column;
    T *from = canonical + size_t(row) * length;
    for (int k = 0; k < length; ++k, at += width) {
      if (kUnpack) from[k] = *at;
      else *at = from[k];
    }
  }
};

// canonical[row][j] -> packed[j's panel][panel's column][j's place]: what sends gradients down.
template <class T>
struct PackBackward {
  T *packed;
  const T *canonical;
  int length, rows, width, vectors;
  void operator()(int panel, int column, int row) const {
    const int columns = vectors * Vector<T>::lanes;
    T *at = packed + (size_t(panel) * width + column) * columns;
    const T *from = canonical + size_t(row) * length;
    for (int j = 0; j < length; ++j)
      at[size_t(j / columns) * rows * columns + j % columns] = from[j];
  }
};

// Adds a bias to its columns, or reads its gradient from them.
template <class T, bool kUnpack>
struct TransferBias {
  T *packed;
  T *canonical;
  int width, from;
  void operator()(int panel, int column, int row) const {
    T &at = packed[size_t(panel) * width + from + column];
    if (kUnpack) canonical[row] = at;
    else at += canonical[row];
  }
};

}  // namespace surrogate

#endif
