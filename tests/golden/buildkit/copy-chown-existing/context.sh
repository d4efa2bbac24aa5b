mkdir -p dir/sub; echo b > dir/sub/b; chmod 750 dir/sub
