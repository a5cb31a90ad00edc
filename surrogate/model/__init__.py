"""The trained network: stack, model file, prediction, spike rule."""
