echo f > f; echo x > x; mkdir -p dir; echo viatree > dir/x
