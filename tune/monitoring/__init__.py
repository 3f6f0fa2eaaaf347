"""What watches the trials of a search: TensorBoard files, Weights & Biases, Ray's metrics. None can stop a search."""
