"""Isolation levels: namespaces, id maps and the processes in them."""
