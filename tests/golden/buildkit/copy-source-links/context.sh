mkdir -p dir tree
echo x > dir/x; echo t > target
ln -s target link; ln -s dir dirlink; ln -s /target absolute; ln -s ../../../target out; ln -s link chain
ln -s nowhere tree/dangling; ln -s ../dir tree/todir; ln -s /etc/passwd tree/absolute; ln -s x tree/self
touch -h -d @1000000000 tree/dangling tree/todir
