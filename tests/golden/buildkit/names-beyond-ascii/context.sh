echo u > ü
