mkdir -p dir/sub; echo x > dir/sub/x
