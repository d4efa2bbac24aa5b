"""Dockerfile in, image out; knows nothing of webhooks or queues."""
