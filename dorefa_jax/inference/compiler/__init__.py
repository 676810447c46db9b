"""From a model's jaxpr to the graph that a packed model runs."""
