mkdir -p dir/x; echo x > dir/x/y
