echo f > f; chmod 640 f; touch -d @1000000000 f
