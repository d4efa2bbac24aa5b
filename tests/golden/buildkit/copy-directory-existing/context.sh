mkdir -p dir/sub/deep dir/empty
echo a > dir/a
echo b > dir/sub/b
echo c > dir/sub/deep/c
chmod 700 dir
chmod 2775 dir/sub
chmod 750 dir/sub/deep
chmod 600 dir/a
touch -h -d @1000000000 dir/a dir/sub/b dir/sub/deep/c dir/sub/deep dir/sub dir/empty dir
