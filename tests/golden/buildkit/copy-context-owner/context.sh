echo f > f; mkdir d; echo g > d/g; ln -s f l; chown -h 12:34 f d d/g l
