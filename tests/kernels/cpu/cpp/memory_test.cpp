// Where memory runs out, a step throws, and the next one steps. Linked with --wrap=malloc.
#include <cstdio>

#include "stack.h"

extern "C" {
void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
}

namespace {

long left = -1;  // pieces of memory that can still be had; any number if negative

// One step of a new stack in which the piece of memory number `failing` cannot be had, and one more try.
// Returns whether memory ran out.
bool step_after(long failing, const std::vector<float> &parameters,
                std::vector<float> &outputs) {
  const int sizes[] = {20, 2}, neurons = 3, inputs = 40;
  surrogate::Stack<float> stack(2, false, inputs, 2, sizes);
  stack.set_weights(parameters.data());
  std::vector<float> state(size_t(neurons * stack.state_size()), 0.25f);
  std::vector<int32_t> counts(size_t(neurons * inputs), 1);
  std::vector<int64_t> lost(neurons, 0);
  const std::vector<float> state_before = state;
  const std::vector<int32_t> counts_before = counts;
  bool ran_out = false;
  left = failing;
  try {
    stack.step_counts(neurons, counts.data(), state.data(), outputs.data(), lost.data());
  } catch (const std::bad_alloc &) {
    ran_out = true;
  }
  left = -1;
  if (!ran_out) return false;
  state = state_before;
  counts = counts_before;
  stack.step_counts(neurons, counts.data(), state.data(), outputs.data(), lost.data());
  return true;
}

}  // namespace

void *__wrap_malloc(size_t size) {
  if (left == 0) return 0;
  if (left > 0) --left;
  return __real_malloc(size);
}

int main() {
  const int sizes[] = {20, 2};
  const surrogate::Stack<float> shape(2, false, 40, 2, sizes);
  std::vector<float> parameters(size_t(shape.parameter_count()));
  for (size_t i = 0; i < parameters.size(); ++i) parameters[i] = 0.01f * float(i % 17) - 0.08f;
  std::vector<float> expected(6);
  step_after(-1, parameters, expected);
  long failing = 0;
  for (;; ++failing) {
    std::vector<float> outputs(6, -1.0f);
    const bool ran_out = step_after(failing, parameters, outputs);
    if (outputs != expected) {
      std::fprintf(stderr, "without piece %ld of memory, the next step differs\n", failing);
      return 1;
    }
    if (!ran_out) break;
  }
  std::printf("memory: %ld pieces\n", failing);
  return failing > 5 ? 0 : 1;
}
