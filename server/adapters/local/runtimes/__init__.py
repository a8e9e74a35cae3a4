"""Serving runtimes: the model servers for each format of models."""
