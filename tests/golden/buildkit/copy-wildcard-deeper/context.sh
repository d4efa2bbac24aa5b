mkdir -p a/b/c a/z/c a/z/d; echo 1 > a/b/c/1.x; echo 2 > a/z/c/2.x; echo 3 > a/z/d/3.x; echo no > a/c
