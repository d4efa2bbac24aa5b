echo f > f; mkdir -p dir/sub; echo x > dir/sub/x; chmod 711 dir/sub; ln -s x dir/sub/l; ln -s f link
