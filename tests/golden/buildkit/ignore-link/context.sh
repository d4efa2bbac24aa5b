mkdir dir; echo a > dir/a; ln -s dir link; echo link > .dockerignore
