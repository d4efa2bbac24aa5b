"""HTTP: receives pushes, answers questions, serves pulls."""
