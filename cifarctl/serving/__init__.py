"""Answering a stream: the inference pipeline, the models in service and their swap, the choice of a backend."""
