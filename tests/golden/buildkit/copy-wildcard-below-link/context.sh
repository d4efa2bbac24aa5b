mkdir -p dir/sub; echo a > dir/a; echo c > dir/sub/c.c; ln -s dir link
