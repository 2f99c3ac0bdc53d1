"""Synthetic worlds: every fact is known, every answer can be judged."""
