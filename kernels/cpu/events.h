// The first layer's input: sums of the weights of active channels, and their gradients.
#ifndef SURROGATE_EVENTS_H
#define SURROGATE_EVENTS_H

#include "layer.h"
#include "memory.h"

namespace surrogate {

// Input events: row `sequence * steps + step` lists the active channels.
struct Events {
  const int16_t *channel;
  const int32_t *row_ptr;
};

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
void sum_events(const Layer<T> &layer, Events events, size_t row, const T *w, const T *bias, T *to) {
  typedef Vector<T> F;
  const int16_t *channel = events.channel + events.row_ptr[row];
  const int32_t count = events.row_ptr[row + 1] - events.row_ptr[row];
  switch (layer.input.vectors) {
    case 1: sum_events_of<T, 1>(channel, count, w, bias, to); break;
    case 2: sum_events_of<T, 2>(channel, count, w, bias, to); break;
    case 3: sum_events_of<T, 3>(channel, count, w, bias, to); break;
    default: sum_events_of<T, 4>(channel, count, w, bias, to);
  }
  for (int v = layer.input.width; v < layer.width; v += F::lanes)
    F::store(to + v, F::load(bias + v));
}

// Backward: adds the gradient of the sums to the weight gradient of each active channel.
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
void spread_to_events(const Layer<T> &layer, Events events, size_t row, const T *grad, T *w) {
  const int16_t *channel = events.channel + events.row_ptr[row];
  const int32_t count = events.row_ptr[row + 1] - events.row_ptr[row];
  switch (layer.input.vectors) {
    case 1: return spread_to_events_of<T, 1>(channel, count, grad, w);
    case 2: return spread_to_events_of<T, 2>(channel, count, grad, w);
    case 3: return spread_to_events_of<T, 3>(channel, count, grad, w);
    default: return spread_to_events_of<T, 4>(channel, count, grad, w);
  }
}

// The events of some steps, sorted by channel: the rows of channel c, from first(c) to first(c + 1) - 1.
// A row is the index of the gradients of its step and sequence.
class ChannelOrder {
 public:
  void sort(Events events, int channels, int batch, int steps, int from, int to, size_t step_size,
            int row_size) {
    int32_t *place = first_.zeros(size_t(channels) + 2) + 1;
    int32_t total = 0;
    for (int b = 0; b < batch; ++b) {
      const int32_t *at = events.row_ptr + size_t(b) * steps;
      for (int32_t e = at[from]; e < at[to]; ++e) ++place[events.channel[e] + 1];
      total += at[to] - at[from];
    }
    for (int c = 0; c < channels; ++c) place[c + 1] += place[c];
    size_t *rows = rows_.reserve(size_t(total));
    // Each place ends where the next channel's began: hence `place` is one entry ahead of first_.
    for (int t = from; t < to; ++t)
      for (int b = 0; b < batch; ++b) {
        const int32_t *at = events.row_ptr + size_t(b) * steps + t;
        const size_t row = step_size * (t - from) + size_t(b) * row_size;
        for (int32_t e = at[0]; e < at[1]; ++e) rows[place[events.channel[e]]++] = row;
      }
  }
  int32_t first(int channel) const { return first_.data()[channel]; }
  size_t row(int32_t event) const { return rows_.data()[event]; }

 private:
  Buffer<int32_t> first_;
  Buffer<size_t> rows_;
};

// The same, channel by channel: w[channel][:] += the gradients of the sums it was active in.
template <class T, int NV>
void gather_gradients_of(int channels, const ChannelOrder &order, const T *grad, T *w) {
  typedef Vector<T> F;
  for (int c = 0; c < channels; ++c, w += NV * F::lanes) {
    const int32_t end = order.first(c + 1);
    if (order.first(c) == end) continue;
    typename F::type sum[NV];
    for (int v = 0; v < NV; ++v) sum[v] = F::load(w + v * F::lanes);
    for (int32_t e = order.first(c); e < end; ++e)
      for (int v = 0; v < NV; ++v) sum[v] += F::load(grad + order.row(e) + v * F::lanes);
    for (int v = 0; v < NV; ++v) F::store(w + v * F::lanes, sum[v]);
  }
}

template <class T>
void gather_gradients(const Layer<T> &layer, const ChannelOrder &order, const T *grad, T *w) {
  switch (layer.input.vectors) {
    case 1: return gather_gradients_of<T, 1>(layer.input.length, order, grad, w);
    case 2: return gather_gradients_of<T, 2>(layer.input.length, order, grad, w);
    case 3: return gather_gradients_of<T, 3>(layer.input.length, order, grad, w);
    default: return gather_gradients_of<T, 4>(layer.input.length, order, grad, w);
  }
}

}  // namespace surrogate

#endif
