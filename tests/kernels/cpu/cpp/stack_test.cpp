// The stepwise kernels against the scalar reference: float32 and float64, events and counts of both sizes.
#include "stack.h"

#include "reference.h"

namespace {

const int kSteps = 5;

template <class T>
struct Bounds;
template <>
struct Bounds<float> {
  static double value() { return 1e-5; }
};
template <>
struct Bounds<double> {
  static double value() { return 1e-13; }
};

// Counts in which the channels of `rows` have one spike or more; `lost` grows by the repeats.
std::vector<int32_t> counts_of(const Spikes &spikes, int first, int neurons, int inputs,
                               Random &random, std::vector<int64_t> &lost) {
  std::vector<int32_t> counts(size_t(neurons) * inputs, 0);
  for (int n = 0; n < neurons; ++n) {
    int32_t *own = counts.data() + size_t(n) * inputs;
    // A count that went below zero is no spike, and is cleared like the others.
    for (int i = 0; i < inputs; ++i) own[i] = random.uniform() < 0.05 ? -2 : 0;
    const std::vector<int16_t> &row = spikes.rows[size_t(first + n)];
    for (size_t i = 0; i < row.size(); ++i) {
      const int repeats = random.uniform() < 0.2 ? 3 : 0;
      own[row[i]] = 1 + repeats;
      lost[size_t(n)] += repeats;
    }
  }
  return counts;
}

template <class T>
void step_all(const Shape &shape, int neurons, int models, Check &check) {
  Random random(unsigned(neurons) + 100u * unsigned(models));
  surrogate::Stack<T> stack(shape.arch, shape.linear_head, shape.inputs, int(shape.sizes.size()),
                            shape.sizes.data(), models, shape.pattern());
  check.equal(double(stack.parameter_count()), double(shape.parameter_count()), shape, 0);
  check.equal(double(stack.state_size()), double(shape.state_size()), shape, 0);

  const size_t count = shape.parameter_count(), width = size_t(shape.state_size());
  const std::vector<double> parameters = random.numbers(count * size_t(models), shape.weight_scale());
  for (int model = 0; model < models; ++model) {
    const std::vector<T> own(as<T>(std::vector<double>(parameters.begin() + count * model,
                                                       parameters.begin() + count * (model + 1))));
    stack.set_weights(own.data(), model);
  }
  std::vector<double> expected = random.numbers(width * neurons, 0.8), expected_outputs(2);
  std::vector<T> by_events = as<T>(expected), by_counts = by_events, by_parts = by_events;
  std::vector<T> by_short = by_events;
  std::vector<int64_t> lost(size_t(neurons), 7), expected_lost = lost, short_lost = lost;
  const Spikes spikes = random.spikes(kSteps * neurons, shape.inputs,
                                      (kSteps - 1) * neurons);
  typename surrogate::Stack<T>::Scratch first, second;
  const int middle = neurons / 2;

  for (int t = 0; t < kSteps; ++t) {
    const int32_t *row_ptr = spikes.row_ptr.data() + t * neurons;
    std::vector<T> outputs = poisoned<T>(2 * size_t(neurons));
    std::vector<T> from_counts = poisoned<T>(2 * size_t(neurons));
    std::vector<T> from_parts = poisoned<T>(2 * size_t(neurons));
    stack.step_events(neurons, spikes.channel.data(), row_ptr, by_events.data(), outputs.data());
    stack.step_events(middle, neurons, spikes.channel.data(), row_ptr, by_parts.data(),
                      from_parts.data(), second);
    stack.step_events(0, middle, spikes.channel.data(), row_ptr, by_parts.data(),
                      from_parts.data(), first);
    std::vector<int32_t> counts =
        counts_of(spikes, t * neurons, neurons, shape.inputs, random, expected_lost);
    std::vector<T> from_short = poisoned<T>(2 * size_t(neurons));
    std::vector<int16_t> short_counts(counts.begin(), counts.end());
    stack.step_counts(neurons, counts.data(), by_counts.data(), from_counts.data(), lost.data());
    stack.step_counts(neurons, short_counts.data(), by_short.data(), from_short.data(),
                      short_lost.data());
    check.equal(counts, std::vector<int32_t>(counts.size(), 0), shape);
    check.equal(short_counts, std::vector<int32_t>(counts.size(), 0), shape);

    for (int n = 0; n < neurons; ++n) {
      reference_step(shape, parameters.data() + (models > 1 ? count * n : 0),
                     spikes.rows[size_t(t * neurons + n)], expected.data() + width * n,
                     expected_outputs.data());
      for (size_t i = 0; i < 2; ++i) {
        check.equal(outputs[2 * n + i], expected_outputs[i], shape, i);
        check.equal(from_counts[2 * n + i], expected_outputs[i], shape, i);
        check.equal(from_short[2 * n + i], expected_outputs[i], shape, i);
        check.equal(from_parts[2 * n + i], expected_outputs[i], shape, i);
      }
    }
    check.equal(by_events, expected, shape);
    check.equal(by_counts, expected, shape);
    check.equal(by_short, expected, shape);
    check.equal(by_parts, expected, shape);
  }
  check.equal(lost, expected_lost, shape);
  check.equal(short_lost, expected_lost, shape);
}

template <class T>
void step_every_shape(const char *name) {
  Check check(name, Bounds<T>::value());
  const std::vector<Shape> all = shapes();
  for (size_t s = 0; s < all.size(); ++s) {
    step_all<T>(all[s], 1, 1, check);
    step_all<T>(all[s], 13, 1, check);
    step_all<T>(all[s], 6, 6, check);
  }
  // Beyond a block of neurons, and as many channels as the cell has synapses.
  const Shape cell = {2, false, 1278, {32, 16, 2}, {}, {}, false};
  step_all<T>(cell, 101, 1, check);
  // Wide layers go through larger blocks.
  const Shape wide = {2, false, 1278, {100, 2}, {}, {}, false};
  step_all<T>(wide, 300, 1, check);
}

}  // namespace

int main() {
  step_every_shape<float>("step, float32");
  step_every_shape<double>("step, float64");
}
