"""From a spec to an InferenceService object, and back to what was asked."""
