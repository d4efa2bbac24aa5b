echo f > f; mkdir dir; echo x > dir/x
