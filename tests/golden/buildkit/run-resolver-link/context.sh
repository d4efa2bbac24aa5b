mkdir etc; ln -s ../run/systemd/resolve/stub.conf etc/resolv.conf
