// A stack with its training, in float32 or float64, with one interface for the Python object.
#ifndef SURROGATE_MACHINE_H
#define SURROGATE_MACHINE_H

#include <memory>
#include <vector>

#include "training.h"

namespace surrogate {

struct Span {
  int batch, steps;
  Events events;
};

class Machine {
 public:
  virtual ~Machine() {}
  virtual bool set_weights(const std::vector<void *> &parameters, int model) = 0;
  virtual void step(int neurons, Events events, void *state, void *outputs) = 0;
  virtual void step_counts(int neurons, int32_t *counts, void *state, void *outputs,
                           int64_t *lost) = 0;
  virtual void forward(Span span, const void *state, void *outputs, void *final_state,
                       bool keep) = 0;
  virtual bool backward(Events events, const std::vector<void *> &parameters,
                        const void *grad_outputs, const void *grad_final,
                        const std::vector<void *> &gradients, void *grad_state) = 0;
  virtual int input_size() const = 0;
  virtual ptrdiff_t rows() const = 0;  // sequences times steps of the last forward pass
  virtual int state_size() const = 0;
};

template <class T>
class MachineOf : public Machine {
 public:
  MachineOf(int cell, bool linear, int inputs, const std::vector<int> &hidden, int models,
            const BranchPattern &pattern)
      : stack_(cell, linear, inputs, int(hidden.size()), hidden.data(), models, pattern) {}

  bool set_weights(const std::vector<void *> &parameters, int model) {
    typename Stack<T>::Split split;
    if (!sort(parameters, split)) return false;
    stack_.set_weights(split, model);
    return true;
  }
  void step(int neurons, Events events, void *state, void *outputs) {
    stack_.step_events(neurons, events.channel, events.row_ptr, static_cast<T *>(state),
                       static_cast<T *>(outputs));
  }
  void step_counts(int neurons, int32_t *counts, void *state, void *outputs, int64_t *lost) {
    stack_.step_counts(neurons, counts, static_cast<T *>(state), static_cast<T *>(outputs), lost);
  }
  void forward(Span span, const void *state, void *outputs, void *final_state, bool keep) {
    rows_ = ptrdiff_t(span.batch) * span.steps;
    if (!training_) training_.reset(new Training<T>(stack_));
    training_->forward(span.batch, span.steps, span.events, static_cast<const T *>(state),
                       static_cast<T *>(outputs), static_cast<T *>(final_state), keep);
  }
  bool backward(Events events, const std::vector<void *> &parameters, const void *grad_outputs,
                const void *grad_final, const std::vector<void *> &gradients, void *grad_state) {
    typename Stack<T>::Split weights, to;
    if (!sort(parameters, weights) || !sort(gradients, to) || !training_) return false;
    training_->backward(events, weights, static_cast<const T *>(grad_outputs),
                        static_cast<const T *>(grad_final), to, static_cast<T *>(grad_state));
    return true;
  }
  int input_size() const { return stack_.input_size(); }
  ptrdiff_t rows() const { return rows_; }
  int state_size() const { return stack_.state_size(); }

 private:
  // Addresses in canonical order; false if there are too few or too many.
  bool sort(const std::vector<void *> &all, typename Stack<T>::Split &split) const {
    size_t next = 0;
    split = stack_.split_by([&](size_t) -> T * {
      const size_t at = next++;
      return at < all.size() ? static_cast<T *>(all[at]) : nullptr;
    });
    return next == all.size();
  }

  Stack<T> stack_;
  ptrdiff_t rows_ = 0;
  std::unique_ptr<Training<T> > training_;
};

}  // namespace surrogate

#endif
