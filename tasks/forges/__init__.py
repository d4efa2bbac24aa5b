"""One module per forge: verify and parse its deliveries."""
