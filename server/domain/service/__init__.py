"""The InferenceService: its spec, its validation, and the commands that change it."""
