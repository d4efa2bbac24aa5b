echo f > f; chmod 6755 f; mkdir -p dir/sub links set; echo x > dir/sub/x; ln -s nowhere links/l; mkfifo links/fifo
echo s > set/s; chmod 4711 set/s; chmod 1777 dir/sub
