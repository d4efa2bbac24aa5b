printf '%s\n' root:x:0:0:root:/root:/bin/sh app:x:1000:1001::/home/app:/bin/sh 1234:x:77:78::/odd:/bin/sh second:x:1000:3000::/second:/bin/sh > passwd
printf '%s\n' root:x:0: app:x:1001: more:x:2000:app,root odd:x:4000:1234,second > group
