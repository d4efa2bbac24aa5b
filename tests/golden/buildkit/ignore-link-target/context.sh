mkdir dir; echo a > dir/a; echo b > dir/b; ln -s dir link; echo dir/a > .dockerignore
