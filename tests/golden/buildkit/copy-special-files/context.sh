mkdir t; mkfifo t/fifo; chmod 622 t/fifo; echo s > t/suid; chmod 6755 t/suid; mkdir t/sticky; chmod 1777 t/sticky
echo r > t/none; chmod 0 t/none; : > t/empty; mkdir t/emptydir; chmod 0 t/emptydir
echo h > t/h1; ln t/h1 t/h2; mkdir t/z; ln t/h1 t/z/h3; ln -s x t/sl; ln t/sl t/sl2
