for f in $(command -v setcap) $(ldd "$(command -v setcap)" | grep -o '/[^ ]*'); do
    mkdir -p "tools$(dirname "$f")"; cp -L "$f" "tools$f"
done
mkdir -p tools/bin; cp "$(command -v setcap)" tools/bin/
