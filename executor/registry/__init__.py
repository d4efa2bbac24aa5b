"""OCI distribution client."""
