echo f > f; echo d > '$SRC'
