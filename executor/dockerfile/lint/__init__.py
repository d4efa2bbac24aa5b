"""BuildKit's build checks, by the same names and in the same words."""
