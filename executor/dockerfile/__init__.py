"""Dockerfile text to instructions: `parse.parse` is the way in, `instructions` the values, `words` the expansion."""
