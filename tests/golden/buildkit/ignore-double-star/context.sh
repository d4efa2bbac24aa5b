mkdir -p a/b/c src/node_modules/x logs .git docs
for f in a/1.txt a/b/2.txt a/b/c/3.txt root.txt src/main.c src/main.o src/node_modules/x/i.js logs/l1.log logs/keep.log \
    .git/config docs/README.md docs/guide.md keep.txt 'with space' x1 x2 x3 src/.env .env; do echo "$f" > "$f"; done
cat > .dockerignore <<'END'
**/*.txt
**/node_modules
!**/3.txt
**/.env
END
