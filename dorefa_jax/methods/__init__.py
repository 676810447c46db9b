"""Methods: each a file of quantizers of weights, activations and gradients."""
