echo a > a; mkdir dir; echo d > dir/d
