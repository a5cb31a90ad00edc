// What the kernels must compute, one neuron and one number at a time, in float64; and random problems.
#ifndef SURROGATE_TESTS_REFERENCE_H
#define SURROGATE_TESTS_REFERENCE_H

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

struct Shape {
  int arch;  // 0 rnn, 1 gru, 2 lstm, 3 elm, 4 elm_silu
  bool linear_head;
  int inputs;
  std::vector<int> sizes;
  std::vector<int> branch_sizes, branch_channels;  // of each branch; none: the first layer sees the inputs
  bool saturate;

  int branches() const { return int(branch_sizes.size()); }
  surrogate::BranchPattern pattern() const {
    const surrogate::BranchPattern pattern = {branches(), branch_sizes.data(), branch_channels.data(), saturate};
    return pattern;
  }
  bool elm() const { return arch > 2; }

  int recurrent_layers() const { return int(sizes.size()) - (linear_head ? 1 : 0); }
  int gates() const { return arch == 0 ? 1 : arch == 1 ? 3 : elm() ? 2 : 4; }
  int state_size() const {
    int size = branches();
    for (int l = 0; l < recurrent_layers(); ++l) size += sizes[l] * (arch == 2 ? 2 : 1);
    return size;
  }
  size_t parameter_count() const {
    size_t count = 0, below = size_t(branches() ? branches() : inputs);
    if (branches()) count = branch_channels.size() + branch_sizes.size();
    for (int l = 0; l < recurrent_layers(); ++l) {
      const size_t rows = size_t(gates()) * sizes[l];
      count += rows * (below + sizes[l] + 2);
      if (elm()) count += size_t(sizes[l]) * (rows + 2);
      below = size_t(sizes[l]);
    }
    return linear_head ? count + 2 * (below + 1) : count;
  }
  // Weights up to this leave a stack far from chaos, where rounding would grow from step to step.
  double weight_scale() const {
    int widest = 4;
    for (size_t l = 0; l < sizes.size(); ++l) widest = sizes[l] > widest ? sizes[l] : widest;
    return (elm() ? 0.1 : 1) / std::sqrt(double(widest));  // an ELM's h goes up to about 10
  }
};

inline double logistic(double x) { return 1 / (1 + std::exp(-x)); }

// to = bias + weight x, weight [rows][x.size()]; returns where the weight ends.
inline const double *affine(const double *weight, const double *bias, size_t rows,
                            const std::vector<double> &x, std::vector<double> &to) {
  to.assign(bias, bias + rows);
  for (size_t r = 0; r < rows; ++r)
    for (size_t i = 0; i < x.size(); ++i) to[r] += *weight++ * x[i];
  return weight;
}

// One step of one neuron; the equations of kernels/reference.py.
inline void reference_step(const Shape &shape, const double *parameters,
                           const std::vector<int16_t> &active, double *state, double *outputs) {
  std::vector<double> x(size_t(shape.inputs), 0.0), a, m;
  for (size_t i = 0; i < active.size(); ++i) x[size_t(active[i])] = 1;
  if (shape.branches()) {
    const std::vector<double> spikes = x;
    const double *kept = parameters + shape.branch_channels.size();
    const int *channel = shape.branch_channels.data();
    x.clear();
    for (int b = 0; b < shape.branches(); ++b) {
      state[b] *= kept[b];
      for (int i = 0; i < shape.branch_sizes[size_t(b)]; ++i)
        state[b] += *parameters++ * spikes[size_t(*channel++)];
      x.push_back(shape.saturate ? std::tanh(state[b]) : state[b]);
    }
    parameters += shape.branches();
    state += shape.branches();
  }
  for (int l = 0; l < shape.recurrent_layers(); ++l) {
    const size_t units = size_t(shape.sizes[l]), rows = units * shape.gates();
    const double *weight_hh = parameters + rows * x.size();
    const double *bias_ih = weight_hh + rows * units;
    std::vector<double> h(state, state + units);
    affine(parameters, bias_ih, rows, x, a);
    affine(weight_hh, bias_ih + rows, rows, h, m);
    parameters = bias_ih + 2 * rows;
    double *c = state + units;
    if (shape.elm()) {
      for (size_t r = 0; r < rows; ++r) {
        const double sum = a[r] + m[r];
        a[r] = shape.arch == 3 ? (sum > 0 ? sum : 0) : sum * logistic(sum);
      }
      const double *bias = parameters + units * rows, *kept = bias + units;
      affine(parameters, bias, units, a, m);
      for (size_t u = 0; u < units; ++u)
        h[u] = kept[u] * h[u] + 5 * (1 - kept[u]) * 1.7159 * std::tanh(2.0 / 3 * m[u]);
      parameters = kept + units;
    }
    for (size_t u = 0; u < units && !shape.elm(); ++u) {
      const size_t second = u + units, third = second + units, fourth = third + units;
      if (shape.arch == 0) {
        h[u] = std::tanh(a[u] + m[u]);
      } else if (shape.arch == 1) {
        const double r = logistic(a[u] + m[u]), z = logistic(a[second] + m[second]);
        h[u] = (1 - z) * std::tanh(a[third] + r * m[third]) + z * h[u];
      } else {
        c[u] = logistic(a[second] + m[second]) * c[u] +
               logistic(a[u] + m[u]) * std::tanh(a[third] + m[third]);
        h[u] = logistic(a[fourth] + m[fourth]) * std::tanh(c[u]);
      }
    }
    std::memcpy(state, h.data(), units * sizeof(double));
    state += units * (shape.arch == 2 ? 2 : 1);
    x = h;
  }
  if (shape.linear_head) {
    affine(parameters, parameters + 2 * x.size(), 2, x, a);
    x = a;
  }
  outputs[0] = x[0];
  outputs[1] = x[1];
}

// Rows of active channels, and the same as lists.
struct Spikes {
  std::vector<std::vector<int16_t> > rows;
  std::vector<int16_t> channel;
  std::vector<int32_t> row_ptr;
};

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  double uniform() { return engine_() / 4294967296.0; }
  std::vector<double> numbers(size_t count, double scale) {
    std::vector<double> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = float((2 * uniform() - 1) * scale);
    return values;
  }
  // Every seventh row is silent; every eleventh, and all from `full_from` on, are full.
  Spikes spikes(int rows, int inputs, int full_from) {
    Spikes spikes;
    spikes.rows.resize(size_t(rows));
    spikes.row_ptr.push_back(0);
    for (int r = 0; r < rows; ++r) {
      const double rate =
          r >= full_from || r % 11 == 10 ? 1 : r % 7 == 6 ? 0 : 8.0 / (8 + inputs);
      for (int i = 0; i < inputs; ++i)
        if (uniform() < rate) spikes.rows[size_t(r)].push_back(int16_t(i));
      spikes.channel.insert(spikes.channel.end(), spikes.rows[size_t(r)].begin(),
                            spikes.rows[size_t(r)].end());
      spikes.row_ptr.push_back(int32_t(spikes.channel.size()));
    }
    return spikes;
  }

 private:
  std::mt19937 engine_;
};

template <class T>
std::vector<T> as(const std::vector<double> &values) {
  return std::vector<T>(values.begin(), values.end());
}

// An array that no kernel may read before it has written it.
template <class T>
std::vector<T> poisoned(size_t count) {
  std::vector<T> values(count);
  if (count) std::memset(static_cast<void *>(values.data()), 0xff, count * sizeof(T));
  return values;
}

// By its bits: -ffast-math may take isnan for false.
template <class T>
bool finite(T value) {
  const double wide = double(value);
  uint64_t bits;
  std::memcpy(&bits, &wide, sizeof bits);
  return (bits >> 52 & 0x7ff) != 0x7ff;
}

// Largest |a - b| / max(1, |b|) met so far; ends the program at the first above `bound`.
class Check {
 public:
  Check(const char *what, double bound) : what_(what), bound_(bound), worst_(0) {}
  template <class A, class B>
  void equal(const std::vector<A> &a, const std::vector<B> &b, const Shape &shape) {
    for (size_t i = 0; i < b.size(); ++i) equal(double(a[i]), double(b[i]), shape, i);
  }
  void equal(double a, double b, const Shape &shape, size_t place) {
    const double error = std::fabs(a - b) / std::fmax(1, std::fabs(b));
    if (error > worst_) worst_ = error;
    if (finite(a) && finite(b) && error <= bound_) return;
    std::fprintf(stderr, "%s: %.17g, expected %.17g at %zu; arch %d, head %d, inputs %d, sizes",
                 what_, a, b, place, shape.arch, int(shape.linear_head), shape.inputs);
    for (size_t l = 0; l < shape.sizes.size(); ++l) std::fprintf(stderr, " %d", shape.sizes[l]);
    std::fprintf(stderr, "\n");
    std::exit(1);
  }
  ~Check() { std::printf("%s: largest error %.3g, allowed %.3g\n", what_, worst_, bound_); }

 private:
  const char *what_;
  double bound_, worst_;
};

// Every cell with either head, at sizes that fill no vector, one, or several and a bit.
inline std::vector<Shape> shapes() {
  const std::vector<std::vector<int> > stacks = {{2},         {1, 2},     {5, 3, 2},
                                                 {16, 2},     {33, 17, 2}, {3, 5, 4, 2, 6, 2},
                                                 {70, 32, 2}};
  const int inputs[] = {1, 15, 63, 127, 40, 9, 20};
  std::vector<Shape> all;
  for (int arch = 0; arch < 5; ++arch)
    for (int linear = 0; linear < 2; ++linear)
      for (size_t s = size_t(linear); s < stacks.size(); ++s) {
        Shape shape = {arch, linear == 1, inputs[s], stacks[s], {}, {}, s % 2 == 0};
        all.push_back(shape);
        // Branches of 0 to 4 channels, as many as fill no vector, one, or several and a bit.
        const int counts[] = {1, 3, 16, 17, 45, 5, 33};
        for (int b = 0; b < counts[s]; ++b) {
          shape.branch_sizes.push_back(b == 1 ? 0 : b % 5 < inputs[s] ? b % 5 : inputs[s]);
          for (int i = 0; i < shape.branch_sizes.back(); ++i)
            shape.branch_channels.push_back((b * 3 + i) % inputs[s]);
        }
        all.push_back(shape);
      }
  return all;
}

#endif
