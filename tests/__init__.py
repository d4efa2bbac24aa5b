"""Tests of Pushwright."""
