head -c 5000000 /dev/zero | tr '\0' 'x' > big
truncate -s 20000000 sparse; printf end | dd of=sparse bs=1 seek=10000000 conv=notrunc status=none
