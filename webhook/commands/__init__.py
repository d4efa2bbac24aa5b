"""One module per command of `pushwright`; each has `main(arguments) -> int`."""
