#!/bin/sh
# make-hello.sh MESSAGE DIRECTORY: a program in DIRECTORY that says the message
set -eu

message=$1
directory=$2

mkdir -p "$directory"
{
    echo '#!/bin/sh'
    echo "cat <<'END'"
    cat "$message"
    echo 'END'
} >"$directory/hello"
chmod 755 "$directory/hello"
echo "made $directory/hello from $(wc -c <"$message") bytes"
