// How any cell of cells.h runs over one block of units and some rows: it loads, computes and stores.
#ifndef SURROGATE_CELL_H
#define SURROGATE_CELL_H

#include "simd.h"

namespace surrogate {

constexpr int kParts = 2;  // most parts of a state: h, which is the output, and one more

// What weight_hh of a layer multiplies: nothing, its own h, or the h of the layer after it, whose inner layer it
// is. kNoWeights: there is bias_hh alone, which the last slots hold.
enum class Hidden { kNone, kOwn, kNext, kNoWeights };

// Pointers are to the first row; `row` steps are given per array.
template <class T>
struct CellRows {
  int rows, units;
  T *gates;  // in: sums; out, in training: activated, if the cell keeps them
  ptrdiff_t gates_row;
  const T *before[kParts];  // the state, by part; may be `after`
  T *after[kParts];
  ptrdiff_t state_row;
};

template <class T>
struct CellGradients {
  int rows, units;
  const T *gates;  // activated, if the cell keeps them
  T *grad_gates;   // of the sums
  ptrdiff_t gates_row;
  const T *before[kParts], *after[kParts];
  const T *above;    // of h, from the outputs or the layer above
  T *carry[kParts];  // in: of `after`, from the step after; out: of `before`, without that through weights
  ptrdiff_t state_row;
  T *bias;  // grows
};

// A panel with several slots is one vector of units wide; as a constant this unrolls its loops.
template <class Kind, class T>
SURROGATE_INLINE int units_in_loop(int units) { return Kind::slots > 1 ? Vector<T>::lanes : units; }

template <class Kind, class T, bool kTraining>
void run_cell(const CellRows<T> &cells) {
  const CellRows<T> at = cells;  // a copy: a store might change the original
  typedef Vector<T> F;
  typedef typename F::type V;
  const int units = units_in_loop<Kind, T>(at.units);
  for (int r = 0; r < at.rows; ++r)
    for (int u = 0; u < units; u += F::lanes) {
      T *gates = at.gates + r * at.gates_row + u;
      const ptrdiff_t place = r * at.state_row + u;
      V gate[Kind::slots], state[Kind::parts];
      for (int s = 0; s < Kind::slots; ++s) gate[s] = F::load(gates + s * units);
      for (int p = 0; p < Kind::parts; ++p) state[p] = F::load(at.before[p] + place);
      if (kTraining) Kind::forward(gate, state);
      else Kind::step(gate, state);
      if (kTraining && Kind::keeps_gates)
        for (int s = 0; s < Kind::slots; ++s) F::store(gates + s * units, gate[s]);
      for (int p = 0; p < Kind::parts; ++p) F::store(at.after[p] + place, state[p]);
    }
}

template <class Kind, class T>
void run_cell_backward(const CellGradients<T> &cells) {
  const CellGradients<T> at = cells;
  typedef Vector<T> F;
  typedef typename F::type V;
  const int units = units_in_loop<Kind, T>(at.units);
  for (int u = 0; u < units; u += F::lanes) {
    // One slot adds to the bias step by step, several add their sum: recorded scores depend on the order.
    V sum[Kind::slots];
    for (int s = 0; s < Kind::slots; ++s) sum[s] = Kind::slots > 1 ? V() : F::load(at.bias + u);
    for (int r = 0; r < at.rows; ++r) {
      const ptrdiff_t gates = r * at.gates_row + u, place = r * at.state_row + u;
      V gate[Kind::slots], before[Kind::parts], after[Kind::parts];
      V grad_gate[Kind::slots], grad[Kind::parts];
      for (int s = 0; s < Kind::slots; ++s) gate[s] = F::load(at.gates + gates + s * units);
      for (int p = 0; p < Kind::parts; ++p) {
        before[p] = F::load(at.before[p] + place);
        after[p] = F::load(at.after[p] + place);
        grad[p] = Kind::has_state ? F::load(at.carry[p] + place) : V();
      }
      grad[0] = Kind::has_state ? F::load(at.above + place) + grad[0] : F::load(at.above + place);
      Kind::backward(gate, before, after, grad, grad_gate);
      for (int s = 0; s < Kind::slots; ++s) {
        F::store(at.grad_gates + gates + s * units, grad_gate[s]);
        sum[s] += grad_gate[s];
      }
      if (Kind::has_state)
        for (int p = 0; p < Kind::parts; ++p) F::store(at.carry[p] + place, grad[p]);
    }
    for (int s = 0; s < Kind::slots; ++s) {
      T *bias = at.bias + s * units + u;
      F::store(bias, Kind::slots > 1 ? F::load(bias) + sum[s] : sum[s]);
    }
  }
}

// A cell's traits and functions, for code that gets the cell at run time.
template <class T>
struct Cell {
  int gates, slots, parts;
  Hidden hidden;
  bool has_state, reads_h, keeps_gates;
  int (*gate_of)(int slot);
  void (*forward)(const CellRows<T> &);
  void (*step)(const CellRows<T> &);
  void (*backward)(const CellGradients<T> &);

  template <class Kind>
  static Cell of() {
    static_assert(Kind::slots <= 4 && Kind::parts <= kParts, "products and steps have no more room");
    const Cell cell = {Kind::gates, Kind::slots, Kind::parts, Kind::hidden, Kind::has_state,
                       Kind::reads_h, Kind::keeps_gates, Kind::gate_of, run_cell<Kind, T, true>,
                       run_cell<Kind, T, false>, run_cell_backward<Kind, T>};
    return cell;
  }
};

}  // namespace surrogate

#endif
