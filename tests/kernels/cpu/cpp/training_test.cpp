// Sequences: outputs against the scalar reference, gradients against its central differences.
#include "training.h"

#include "reference.h"

namespace {

struct Problem {
  Shape shape;
  int batch, steps;
  Spikes spikes;
  std::vector<double> parameters, state, outputs_weight, state_weight;

  Problem(const Shape &shape_, int batch_, int steps_, Random &random)
      : shape(shape_),
        batch(batch_),
        steps(steps_),
        spikes(random.spikes(batch * steps, shape.inputs, batch * steps)),
        parameters(random.numbers(shape.parameter_count(), shape.weight_scale())),
        state(random.numbers(size_t(batch) * shape.state_size(), 0.8)),
        outputs_weight(random.numbers(size_t(batch) * steps * 2, 1)),
        state_weight(random.numbers(state.size(), 1)) {}

  void run(std::vector<double> &outputs, std::vector<double> &final_state) const {
    outputs.resize(outputs_weight.size());
    for (int b = 0; b < batch; ++b)
      for (int t = 0; t < steps; ++t)
        reference_step(shape, parameters.data(), spikes.rows[size_t(b * steps + t)],
                       final_state.data() + size_t(b) * shape.state_size(),
                       outputs.data() + 2 * (size_t(b) * steps + t));
  }
  double loss() const {
    std::vector<double> outputs, final_state = state;
    run(outputs, final_state);
    double sum = 0;
    for (size_t i = 0; i < outputs.size(); ++i) sum += outputs[i] * outputs_weight[i];
    for (size_t i = 0; i < final_state.size(); ++i) sum += final_state[i] * state_weight[i];
    return sum;
  }
};

template <class T>
struct Gradients {
  std::vector<T> parameters, state;
};

template <class T>
Gradients<T> train(const Problem &problem, Check &check) {
  const Shape &shape = problem.shape;
  surrogate::Stack<T> stack(shape.arch, shape.linear_head, shape.inputs, int(shape.sizes.size()),
                            shape.sizes.data(), 1, shape.pattern());
  std::vector<T> parameters = as<T>(problem.parameters);
  stack.set_weights(parameters.data());
  const std::vector<T> state = as<T>(problem.state);
  const std::vector<T> outputs_weight = as<T>(problem.outputs_weight);
  const std::vector<T> state_weight = as<T>(problem.state_weight);
  const surrogate::Events events = {problem.spikes.channel.data(), problem.spikes.row_ptr.data()};

  std::vector<double> expected, expected_state = problem.state;
  problem.run(expected, expected_state);
  surrogate::Training<T> training(stack);
  Gradients<T> gradients;
  // Without keeping the way back, then twice with it: the memory of one run serves the next.
  for (int round = 0; round < 3; ++round) {
    std::vector<T> outputs = poisoned<T>(expected.size());
    std::vector<T> final_state = poisoned<T>(state.size());
    training.forward(problem.batch, problem.steps, events, state.data(), outputs.data(),
                     final_state.data(), round > 0);
    check.equal(outputs, expected, shape);
    check.equal(final_state, expected_state, shape);
    if (round == 0) continue;
    gradients.parameters = poisoned<T>(parameters.size());
    gradients.state = poisoned<T>(state.size());
    training.backward(events, stack.split(parameters.data()), outputs_weight.data(),
                      state_weight.data(), stack.split(gradients.parameters.data()),
                      gradients.state.data());
  }
  return gradients;
}

double along(const std::vector<double> &gradient, const std::vector<double> &direction) {
  double sum = 0;
  for (size_t i = 0; i < gradient.size(); ++i) sum += gradient[i] * direction[i];
  return sum;
}

void move(std::vector<double> &values, const std::vector<double> &direction, double step) {
  for (size_t i = 0; i < values.size(); ++i) values[i] += step * direction[i];
}

// Along a random direction every entry counts, so one number checks them all.
void check_along_random_directions(Problem problem, const Gradients<double> &gradients,
                                   Random &random, Check &check) {
  const double step = 1e-5;
  for (int part = 0; part < 2; ++part) {
    std::vector<double> &values = part ? problem.state : problem.parameters;
    const std::vector<double> &gradient = part ? gradients.state : gradients.parameters;
    for (int repeat = 0; repeat < 2; ++repeat) {
      const std::vector<double> direction = random.numbers(values.size(), 1);
      move(values, direction, step);
      const double after = problem.loss();
      move(values, direction, -2 * step);
      const double before = problem.loss();
      move(values, direction, step);
      check.equal(along(gradient, direction), (after - before) / (2 * step), problem.shape, 0);
    }
  }
}

}  // namespace

int main() {
  Check float_values("forward, float32", 5e-6), double_values("forward, float64", 1e-13);
  Check along_directions("gradients along random directions, float64", 1e-6);
  Check float_gradients("gradients, float32", 5e-5);
  const int batches[] = {1, 3, 14}, steps[] = {1, 2, 40};
  std::vector<Shape> all = shapes();
  // One chunk of steps does not hold this many.
  const Shape small = {2, false, 9, {4, 2}, {}, {}, false};
  all.push_back(small);
  for (size_t s = 0; s < all.size(); ++s)
    for (int i = 0; i < 3; ++i) {
      Random random(unsigned(s * 10) + unsigned(i));
      const bool last = s + 1 == all.size();
      const Problem problem(all[s], batches[i], last ? 300 : steps[(s + i) % 3], random);
      const Gradients<double> exact = train<double>(problem, double_values);
      // Differences may step over the kink of a relu, so of the two ELMs only the other is checked.
      if (all[s].arch != 3)
        check_along_random_directions(problem, exact, random, along_directions);
      const Gradients<float> rounded = train<float>(problem, float_values);
      float_gradients.equal(rounded.parameters, exact.parameters, all[s]);
      float_gradients.equal(rounded.state, exact.state, all[s]);
    }
}
