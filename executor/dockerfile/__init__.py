"""Dockerfile text to typed instructions."""
