echo f > f; mkdir dir; echo d > dir/d; touch -d @1000000000 f dir/d dir
