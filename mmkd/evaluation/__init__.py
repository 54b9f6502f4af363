"""Evaluation: zero-shot classification and bias."""
