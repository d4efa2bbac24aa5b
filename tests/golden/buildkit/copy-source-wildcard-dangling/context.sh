ln -s nowhere dangling; echo a > da
