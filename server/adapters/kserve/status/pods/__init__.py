"""Pods and their containers: what is wrong with them, and which of their text may be shown."""
