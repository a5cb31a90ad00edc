// The C++ kernels as a Python module. SURROGATE_MODULE is its name, one per instruction-set level.
//
// `surrogate.kernels.cpu.sequences` and `surrogate.kernels.cpu.steps` are its only callers: they check shapes
// and types, and pass the addresses of tensors. A step takes arrays through the buffer protocol instead,
// so that one call costs no more than a fraction of a microsecond.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstring>
#include <stdexcept>
#include <vector>

#include "isa.h"
#include "machine.h"
#include "poisson.h"

#define SURROGATE_JOIN(a, b) a##b
#define SURROGATE_INIT(name) SURROGATE_JOIN(PyInit_, name)
#define SURROGATE_QUOTE(name) #name
#define SURROGATE_TEXT(name) SURROGATE_QUOTE(name)

namespace {

using surrogate::Events;
using surrogate::Machine;
using surrogate::MachineOf;

// An array's memory, released at the end of the scope or when it is replaced.
class Array {
 public:
  Array() : held_(false) {}
  ~Array() { release(); }
  Array(const Array &) = delete;
  Array &operator=(const Array &) = delete;

  // A C-contiguous array of `rows` rows (any number if negative) of `columns` numbers; one dimension
  // will do. `formats` are the codes of Python's struct module for the number, of `itemsize` bytes.
  bool take(PyObject *object, const char *formats, Py_ssize_t itemsize, Py_ssize_t rows,
            Py_ssize_t columns, bool writable, const char *name) {
    release();
    const int flags = PyBUF_ND | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, &view_, flags) < 0) return false;
    held_ = true;
    const bool typed = view_.itemsize == itemsize && view_.format && !view_.format[1] &&
                       std::strchr(formats, view_.format[0]);
    const bool sized = rows < 0 || view_.len == rows * columns * itemsize;
    if (typed && sized && (view_.ndim == 1 || (rows >= 0 && view_.shape[0] == rows))) return true;
    PyErr_Format(PyExc_ValueError,
                 "%s holds %zd bytes in %d dimensions as '%s' of %zd bytes, expected [%zd, %zd] as "
                 "'%c' of %zd bytes",
                 name, view_.len, view_.ndim, view_.format ? view_.format : "?", view_.itemsize,
                 rows, columns, formats[0], itemsize);
    return false;
  }
  void release() {
    if (held_) PyBuffer_Release(&view_);
    held_ = false;
  }
  template <class U>
  U *as() const { return static_cast<U *>(view_.buf); }
  Py_ssize_t bytes() const { return view_.len; }

 private:
  Py_buffer view_;
  bool held_;
};

bool events_fit(const int16_t *channel, const int32_t *row_ptr, Py_ssize_t rows, Py_ssize_t events,
                int input_size) {
  bool rising = row_ptr[0] >= 0 && row_ptr[rows] <= events;
  for (Py_ssize_t r = 0; r < rows; ++r) rising &= row_ptr[r] <= row_ptr[r + 1];
  if (!rising) {
    PyErr_Format(PyExc_ValueError, "row_ptr must rise from 0 to at most %zd, the number of events",
                 events);
    return false;
  }
  // As unsigned numbers, negative channels are above the largest channel, so one comparison is enough,
  // and compilers vectorise it.
  int outside = 0;
  for (int32_t e = row_ptr[0], end = row_ptr[rows]; e < end; ++e)
    outside |= uint16_t(channel[e]) >= input_size;
  if (outside)
    PyErr_Format(PyExc_ValueError, "a channel is outside 0..%d", input_size - 1);
  return !outside;
}

struct StackObject {
  PyObject_HEAD
  Machine *machine;
  Array *state, *outputs;
  int neurons;
  Py_ssize_t itemsize;
};

// A step of few neurons takes less time than releasing the interpreter's lock and taking it again.
constexpr int kReleaseFrom = 8;

class Unlocked {
 public:
  explicit Unlocked(bool release) : state_(release ? PyEval_SaveThread() : nullptr) {}
  ~Unlocked() {
    if (state_) PyEval_RestoreThread(state_);
  }
  Unlocked(const Unlocked &) = delete;
  Unlocked &operator=(const Unlocked &) = delete;

 private:
  PyThreadState *state_;
};

// Runs a function that may throw; false, with Python's exception set, if it does.
template <class Work>
bool guarded(const Work &work) {
  try {
    work();
    return true;
  } catch (const std::bad_alloc &) {
    PyErr_NoMemory();
  } catch (const std::invalid_argument &error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  }
  return false;
}

StackObject *own(PyObject *self) { return reinterpret_cast<StackObject *>(self); }

void *address(Py_ssize_t number) { return reinterpret_cast<void *>(number); }

bool addresses(PyObject *tuple, std::vector<void *> &to) {
  const Py_ssize_t size = PyTuple_Size(tuple);
  for (Py_ssize_t i = 0; i < size; ++i) to.push_back(PyLong_AsVoidPtr(PyTuple_GetItem(tuple, i)));
  return !PyErr_Occurred();
}

std::vector<int> numbers(PyObject *tuple) {
  std::vector<int> found;
  for (Py_ssize_t i = 0; i < PyTuple_Size(tuple); ++i)
    found.push_back(int(PyLong_AsLong(PyTuple_GetItem(tuple, i))));
  return found;
}

PyObject *make(PyTypeObject *type, PyObject *args, PyObject *) {
  int cell, linear, inputs, wide, models, saturate;
  PyObject *sizes, *branch_sizes, *branch_channels;
  if (!PyArg_ParseTuple(args, "ipiO!piO!O!p", &cell, &linear, &inputs, &PyTuple_Type, &sizes, &wide,
                        &models, &PyTuple_Type, &branch_sizes, &PyTuple_Type, &branch_channels,
                        &saturate))
    return nullptr;
  allocfunc allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
  PyObject *self = allocate(type, 0);
  if (!self) return nullptr;
  if (!guarded([&] {
        const std::vector<int> hidden = numbers(sizes), fed_by = numbers(branch_sizes),
                               channels = numbers(branch_channels);
        if (PyErr_Occurred()) return;
        const surrogate::BranchPattern pattern = {int(fed_by.size()), fed_by.data(),
                                                  channels.data(), saturate != 0};
        own(self)->machine =
            wide ? static_cast<Machine *>(
                       new MachineOf<double>(cell, linear, inputs, hidden, models, pattern))
                 : new MachineOf<float>(cell, linear, inputs, hidden, models, pattern);
        own(self)->state = new Array;
        own(self)->outputs = new Array;
      }) ||
      PyErr_Occurred()) {
    Py_DECREF(self);
    return nullptr;
  }
  own(self)->itemsize = wide ? 8 : 4;
  return self;
}

void destroy(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  delete own(self)->machine;
  delete own(self)->state;
  delete own(self)->outputs;
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

PyObject *set_weights(PyObject *self, PyObject *args) {
  PyObject *tuple;
  int model;
  if (!PyArg_ParseTuple(args, "O!i", &PyTuple_Type, &tuple, &model)) return nullptr;
  bool fit = false;
  if (!guarded([&] {
        std::vector<void *> parameters;
        fit = addresses(tuple, parameters) && own(self)->machine->set_weights(parameters, model);
      }))
    return nullptr;
  if (fit) Py_RETURN_NONE;
  if (PyErr_Occurred()) return nullptr;
  return PyErr_Format(PyExc_ValueError, "the number of parameters does not fit the stack");
}

PyObject *bind(PyObject *self, PyObject *args) {
  StackObject *stack = own(self);
  PyObject *state, *outputs;
  int neurons;
  if (!PyArg_ParseTuple(args, "iOO", &neurons, &state, &outputs)) return nullptr;
  stack->neurons = 0;
  const Py_ssize_t states = stack->machine->state_size();
  const char *real = stack->itemsize == 8 ? "d" : "f";
  if (!stack->state->take(state, real, stack->itemsize, neurons, states, true, "state") ||
      !stack->outputs->take(outputs, real, stack->itemsize, neurons, 2, true, "outputs"))
    return nullptr;
  stack->neurons = neurons;
  Py_RETURN_NONE;
}

PyObject *step(PyObject *self, PyObject *const *args, Py_ssize_t count) {
  StackObject *stack = own(self);
  if (count != 2) return PyErr_Format(PyExc_TypeError, "step takes channel and row_ptr");
  Array channel, row_ptr;
  if (!channel.take(args[0], "h", 2, -1, 1, false, "channel") ||
      !row_ptr.take(args[1], "il", 4, Py_ssize_t(stack->neurons) + 1, 1, false, "row_ptr"))
    return nullptr;
  const Events events = {channel.as<int16_t>(), row_ptr.as<int32_t>()};
  if (!events_fit(events.channel, events.row_ptr, stack->neurons, channel.bytes() / 2,
                  stack->machine->input_size()))
    return nullptr;
  if (!guarded([&] {
        const Unlocked unlocked(stack->neurons >= kReleaseFrom);
        stack->machine->step(stack->neurons, events, stack->state->as<void>(),
                             stack->outputs->as<void>());
      }))
    return nullptr;
  Py_RETURN_NONE;
}

PyObject *step_counts(PyObject *self, PyObject *const *args, Py_ssize_t count) {
  StackObject *stack = own(self);
  if (count != 2) return PyErr_Format(PyExc_TypeError, "step_counts takes counts and lost");
  Array counts, lost;
  const Py_ssize_t inputs = stack->machine->input_size();
  if (!counts.take(args[0], "il", 4, stack->neurons, inputs, true, "counts") ||
      !lost.take(args[1], "lq", 8, stack->neurons, 1, true, "lost"))
    return nullptr;
  if (!guarded([&] {
        const Unlocked unlocked(stack->neurons >= kReleaseFrom);
        stack->machine->step_counts(stack->neurons, counts.as<int32_t>(),
                                    stack->state->as<void>(), stack->outputs->as<void>(),
                                    lost.as<int64_t>());
      }))
    return nullptr;
  Py_RETURN_NONE;
}

PyObject *forward(PyObject *self, PyObject *args) {
  surrogate::Span span;
  Py_ssize_t events, channel, row_ptr, state, outputs, final_state;
  int keep;
  if (!PyArg_ParseTuple(args, "iinnnnnnp", &span.batch, &span.steps, &events, &channel, &row_ptr,
                        &state, &outputs, &final_state, &keep))
    return nullptr;
  span.events.channel = static_cast<const int16_t *>(address(channel));
  span.events.row_ptr = static_cast<const int32_t *>(address(row_ptr));
  if (!events_fit(span.events.channel, span.events.row_ptr, Py_ssize_t(span.batch) * span.steps,
                  events, own(self)->machine->input_size()))
    return nullptr;
  if (!guarded([&] {
        const Unlocked unlocked(true);
        own(self)->machine->forward(span, address(state), address(outputs), address(final_state),
                                    keep);
      }))
    return nullptr;
  Py_RETURN_NONE;
}

PyObject *backward(PyObject *self, PyObject *args) {
  Py_ssize_t count, channel, row_ptr, grad_outputs, grad_final, grad_state;
  PyObject *weights, *gradients;
  if (!PyArg_ParseTuple(args, "nnnO!nnO!n", &count, &channel, &row_ptr, &PyTuple_Type, &weights,
                        &grad_outputs, &grad_final, &PyTuple_Type, &gradients, &grad_state))
    return nullptr;
  Machine *machine = own(self)->machine;
  const Events events = {static_cast<const int16_t *>(address(channel)),
                         static_cast<const int32_t *>(address(row_ptr))};
  // Checked again: their memory may have been written since the forward pass.
  if (!events_fit(events.channel, events.row_ptr, machine->rows(), count, machine->input_size()))
    return nullptr;
  bool done = false;
  if (!guarded([&] {
        std::vector<void *> from, to;
        if (!addresses(weights, from) || !addresses(gradients, to)) return;
        const Unlocked unlocked(true);
        done = machine->backward(events, from, address(grad_outputs), address(grad_final), to,
                                 address(grad_state));
      }))
    return nullptr;
  if (done) Py_RETURN_NONE;
  if (PyErr_Occurred()) return nullptr;
  return PyErr_Format(PyExc_ValueError, "backward needs a kept forward pass before it");
}

PyMethodDef stack_methods[] = {
    {"set_weights", set_weights, METH_VARARGS,
     "set_weights(addresses of canonical parameters, model)"},
    {"bind", bind, METH_VARARGS, "bind(neurons, state, outputs): the arrays that steps work in"},
    {"step", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(step)), METH_FASTCALL,
     "step(channel, row_ptr)"},
    {"step_counts", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(step_counts)),
     METH_FASTCALL, "step_counts(counts, lost)"},
    {"forward", forward, METH_VARARGS,
     "forward(batch, steps, events, channel, row_ptr, state, outputs, final_state, keep)"},
    {"backward", backward, METH_VARARGS,
     "backward(events, channel, row_ptr, weights, grad_outputs, grad_final, gradients, grad_state)"},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot stack_slots[] = {
    {Py_tp_new, reinterpret_cast<void *>(make)},
    {Py_tp_dealloc, reinterpret_cast<void *>(destroy)},
    {Py_tp_methods, stack_methods},
    {0, nullptr},
};

PyType_Spec stack_spec = {
    "surrogate.kernels.cpu.Stack", sizeof(StackObject), 0,
    Py_TPFLAGS_DEFAULT, stack_slots,
};

PyObject *isa(PyObject *, PyObject *) { return PyUnicode_FromString(surrogate::best_level()); }

PyObject *add_poisson(PyObject *, PyObject *args) {
  PyObject *of_counts, *of_rate, *of_tables;
  unsigned long long seed;
  long long step;
  int stream, inputs, first, size;
  double scale;
  if (!PyArg_ParseTuple(args, "OOOLKiiiid", &of_counts, &of_rate, &of_tables, &step, &seed, &stream,
                        &inputs, &first, &size, &scale))
    return nullptr;
  if (first < 0 || size < 1 || size > inputs - first)
    return PyErr_Format(PyExc_ValueError, "%d channels from %d on, expected some of %d", size, first,
                        inputs);
  Array counts, rate, tables;
  if (!rate.take(of_rate, "d", 8, -1, 1, false, "rate")) return nullptr;
  const Py_ssize_t neurons = rate.bytes() / 8;
  if (!counts.take(of_counts, "il", 4, neurons, inputs, true, "counts")) return nullptr;
  if (!tables.take(of_tables, "lq", 8, surrogate::poisson_tables_size(size), 1, false, "tables"))
    return nullptr;
  const surrogate::PoissonChannels channels = {seed, uint32_t(stream), first, size, scale,
                                               tables.as<int64_t>()};
  {
    const Unlocked unlocked(neurons >= kReleaseFrom);
    surrogate::add_poisson(channels, step, 0, int(neurons), rate.as<double>(), inputs,
                           counts.as<int32_t>());
  }
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"add_poisson", add_poisson, METH_VARARGS,
     "add_poisson(counts, rate, tables, step, seed, stream, inputs, first, size, scale)"},
    {"isa", isa, METH_NOARGS, "The highest instruction-set level that this CPU runs."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT, SURROGATE_TEXT(SURROGATE_MODULE), nullptr, -1, methods,
    nullptr, nullptr, nullptr, nullptr,
};

}  // namespace

PyMODINIT_FUNC SURROGATE_INIT(SURROGATE_MODULE)(void) {
  PyObject *self = PyModule_Create(&module);
  PyObject *type = self ? PyType_FromSpec(&stack_spec) : nullptr;
  if (!type || PyModule_AddObjectRef(self, "Stack", type) < 0) {
    Py_XDECREF(type);
    Py_XDECREF(self);
    return nullptr;
  }
  Py_DECREF(type);
  return self;
}
