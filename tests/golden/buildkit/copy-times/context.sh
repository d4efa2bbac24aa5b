mkdir -p t/sub; echo a > t/sub/a; ln -s a t/sub/l; mkfifo t/sub/p; echo f > f
echo o > t/old; echo n > t/new; touch -d @-1000.5 t/old; touch -d @5680281600 t/new
touch -h -d @1000000001 t/sub/a t/sub/l t/sub/p f; touch -d @1000000002 t/sub; touch -d @1000000003 t
