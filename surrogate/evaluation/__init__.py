"""How well a model predicts the neuron: scores with intervals, protocols."""
