"""Render a spec as an InferenceService, and parse it back."""
