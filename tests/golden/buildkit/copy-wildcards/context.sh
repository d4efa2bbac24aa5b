echo 1 > a1.txt; echo 2 > f1.txt; echo 3 > fx.txt; echo star > '*.txt'
echo dot > .hidden.txt
mkdir -p d1/sub d2
echo i1 > d1/inner; echo i2 > d2/inner; echo x > d1/x.c; echo y > d1/sub/y.c
