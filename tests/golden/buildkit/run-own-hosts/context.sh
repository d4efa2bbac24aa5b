echo "1.2.3.4 own" > hosts; echo "nameserver 9.9.9.9" > resolv.conf
