"""One function per kind of instruction: a stage's state in, its next state out."""
