"""Diagnose pods and their containers, and redact the text of containers."""
