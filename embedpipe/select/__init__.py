"""Choose tap, backbone, head and hyperparameters jointly, on validation, and say what ties with the best."""
