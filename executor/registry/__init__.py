"""OCI distribution client: `client` asks, `mirrors` says where, `auth` may say who, `transport` moves the bytes."""
