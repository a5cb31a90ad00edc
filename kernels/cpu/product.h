// Products of small blocks of rows with packed panels of weights.
//
// A panel holds NV vectors of columns for each row of a weight matrix, so that one sweep down a panel
// reads memory in order. M rows of the other factor share each sweep, and M * NV sums stay in registers.
#ifndef SURROGATE_PRODUCT_H
#define SURROGATE_PRODUCT_H

#include <cstring>

#include "simd.h"

namespace surrogate {

// Sweeps of this many rows keep the part of a panel they read in the first-level cache.
constexpr int kSweep = 64;

// c[m][:] += sum over s, k of a[m, s, k] * w[s][k][:], M rows of NV vectors.
// a[m, s, k] lies at a + m * a_row + s * a_segment + k * a_step.
template <class T, int M, int NV>
SURROGATE_INLINE void tile(int segments, int length, const T *a, ptrdiff_t a_row, ptrdiff_t a_step,
                           ptrdiff_t a_segment, const T *w, ptrdiff_t w_step, ptrdiff_t w_segment,
                           T *c, ptrdiff_t c_row) {
  typedef Vector<T> F;
  typedef typename F::type V;
  V sum[M][NV];
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < NV; ++v) sum[m][v] = F::load(c + m * c_row + v * F::lanes);
  for (int s = 0; s < segments; ++s) {
    const T *as = a + s * a_segment;
    const T *ws = w + s * w_segment;
    for (int k = 0; k < length; ++k, as += a_step, ws += w_step) {
      V column[NV];
      for (int v = 0; v < NV; ++v) column[v] = F::load(ws + v * F::lanes);
      for (int m = 0; m < M; ++m) {
        const V factor = F::fill(as[m * a_row]);
        for (int v = 0; v < NV; ++v) sum[m][v] += factor * column[v];
      }
    }
  }
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < NV; ++v) F::store(c + m * c_row + v * F::lanes, sum[m][v]);
}

// A single row would wait for each sum before the next, so it has several sums per column.
template <class T, int NV>
SURROGATE_INLINE void single_row(int length, const T *a, const T *w, T *c) {
  typedef Vector<T> F;
  typedef typename F::type V;
  constexpr ptrdiff_t w_step = NV * F::lanes;
  constexpr int chains = 8 / NV;
  V sum[chains][NV];
  for (int v = 0; v < NV; ++v) {
    sum[0][v] = F::load(c + v * F::lanes);
    for (int i = 1; i < chains; ++i) sum[i][v] = F::fill(0);
  }
  int k = 0;
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 4
#endif
  for (; k + chains <= length; k += chains, w += chains * w_step)
    for (int i = 0; i < chains; ++i)
      for (int v = 0; v < NV; ++v)
        sum[i][v] += F::fill(a[k + i]) * F::load(w + i * w_step + v * F::lanes);
  for (; k < length; ++k, w += w_step)
    for (int v = 0; v < NV; ++v) sum[0][v] += F::fill(a[k]) * F::load(w + v * F::lanes);
  for (int v = 0; v < NV; ++v) {
    for (int i = 1; i < chains; ++i) sum[0][v] += sum[i][v];
    F::store(c + v * F::lanes, sum[0][v]);
  }
}

// Most rows that fit the registers with NV vectors each.
template <int NV>
struct Rows {
  static constexpr int fit = kAccumulators / NV, most = fit < 12 ? fit : 12;
};

// Runs `Tile::template run<M, NV>` for blocks of rows, the largest first: 12, 8, 6, 4, 3, 2, 1.
template <class Tile, int NV, int M>
struct Blocks {
  static constexpr int next = M > 8 ? 8 : M > 6 ? 6 : M > 4 ? 4 : M - 1;
  static SURROGATE_INLINE int run(const Tile &tile, int from, int rows) {
    for (; rows - from >= M; from += M) tile.template run<M, NV>(from);
    return Blocks<Tile, NV, next>::run(tile, from, rows);
  }
};
template <class Tile, int NV>
struct Blocks<Tile, NV, 0> {
  static SURROGATE_INLINE int run(const Tile &, int from, int) { return from; }
};

// c[r][:] += a[r][:] * w for `rows` rows: w is [length][step], a is [rows][a_row], row-major.
template <class T>
struct RowsTimesPanel {
  int length;
  const T *a;
  ptrdiff_t a_row;
  const T *w;
  T *c;
  ptrdiff_t c_row;
  template <int M, int NV>
  SURROGATE_INLINE void run(int from) const {
    tile<T, M, NV>(1, length, a + from * a_row, a_row, 1, 0, w, NV * Vector<T>::lanes, 0,
                   c + from * c_row, c_row);
  }
};

template <class T, int NV>
void multiply_panel(int rows, int length, const T *a, ptrdiff_t a_row, const T *w, T *c,
                    ptrdiff_t c_row) {
  if (rows == 1) return single_row<T, NV>(length, a, w, c);
  for (int from = 0; from < length; from += kSweep) {
    const int sweep = length - from < kSweep ? length - from : kSweep;
    const RowsTimesPanel<T> product = {sweep, a + from, a_row,
                                       w + ptrdiff_t(from) * NV * Vector<T>::lanes, c, c_row};
    Blocks<RowsTimesPanel<T>, NV, Rows<NV>::most>::run(product, 0, rows);
  }
}

// The same for a number of vectors, 1 to 4, known at run time.
template <class T>
void multiply(int vectors, int rows, int length, const T *a, ptrdiff_t a_row, const T *w, T *c,
              ptrdiff_t c_row) {
  switch (vectors) {
    case 1: return multiply_panel<T, 1>(rows, length, a, a_row, w, c, c_row);
    case 2: return multiply_panel<T, 2>(rows, length, a, a_row, w, c, c_row);
    case 3: return multiply_panel<T, 3>(rows, length, a, a_row, w, c, c_row);
    default: return multiply_panel<T, 4>(rows, length, a, a_row, w, c, c_row);
  }
}

// Weight gradient: c[unit][:] += sum over s, row of a[s, row, unit] * w[s][row][:].
// `a` has rows of a_row numbers or, with a_row 0, is packed by pack_units; w[s][row] lies at
// w + s * w_segment + row * w_step.
template <class T>
struct UnitsTimesRows {
  int segments, length;
  const T *a;
  ptrdiff_t a_row;
  const T *w;
  ptrdiff_t w_step, w_segment;
  T *c;
  template <int M, int NV>
  SURROGATE_INLINE void run(int from) const {
    const ptrdiff_t c_row = NV * Vector<T>::lanes;
    const T *first = a + (a_row ? from : ptrdiff_t(from) * segments * length);
    const ptrdiff_t a_step = a_row ? a_row : M;
    tile<T, M, NV>(segments, length, first, 1, a_step, a_step * length, w, w_step, w_segment,
                   c + from * c_row, c_row);
  }
};

template <class T, int NV>
void accumulate_panel(int units, const UnitsTimesRows<T> &product) {
  Blocks<UnitsTimesRows<T>, NV, Rows<NV>::most>::run(product, 0, units);
}

template <class T>
void accumulate(int vectors, int units, const UnitsTimesRows<T> &product) {
  switch (vectors) {
    case 1: return accumulate_panel<T, 1>(units, product);
    case 2: return accumulate_panel<T, 2>(units, product);
    case 3: return accumulate_panel<T, 3>(units, product);
    default: return accumulate_panel<T, 4>(units, product);
  }
}

// Reorders a[row][unit] into blocks of units as `accumulate` walks them, each [row][M].
template <class T>
struct PackUnits {
  int rows;
  const T *a;
  ptrdiff_t a_row;
  T *packed;
  template <int M, int NV>
  SURROGATE_INLINE void run(int from) const {
    T *to = packed + ptrdiff_t(from) * rows;
    const T *row = a + from;
    for (int r = 0; r < rows; ++r, row += a_row, to += M) std::memcpy(to, row, M * sizeof(T));
  }
};

template <class T>
void pack_units(int vectors, int rows, int units, const T *a, ptrdiff_t a_row, T *packed) {
  const PackUnits<T> pack = {rows, a, a_row, packed};
  switch (vectors) {
    case 1: Blocks<PackUnits<T>, 1, Rows<1>::most>::run(pack, 0, units); break;
    case 2: Blocks<PackUnits<T>, 2, Rows<2>::most>::run(pack, 0, units); break;
    case 3: Blocks<PackUnits<T>, 3, Rows<3>::most>::run(pack, 0, units); break;
    default: Blocks<PackUnits<T>, 4, Rows<4>::most>::run(pack, 0, units);
  }
}

}  // namespace surrogate

#endif
