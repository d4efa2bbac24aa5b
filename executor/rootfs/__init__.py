"""Root file systems: contained file operations and overlay snapshots."""
