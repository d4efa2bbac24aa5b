echo new > f; chmod 604 f; mkdir dir; echo d > dir/d
