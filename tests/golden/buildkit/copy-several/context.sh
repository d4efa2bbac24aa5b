echo a > a; echo b > b; mkdir dir dir2; echo 1 > dir/same; echo 2 > dir2/same; echo 1 > dir/one; echo 2 > dir2/two
