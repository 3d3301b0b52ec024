"""Training: the objective, the optimisers and the loop over steps."""
